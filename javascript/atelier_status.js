// What has become of a training, in a word.
(function () {
    "use strict";

    const { t, el } = window.atelier;
    const STATUS = {
        queued: () => t("in the queue"),
        waiting: () => t("not started"),
        running: () => t("running"),
        paused: () => t("paused"),
        stopped: () => t("stopped"),
        finished: () => t("finished"),
        failed: () => t("failed"),
        died: () => t("ended unexpectedly"),
    };

    function badge(status) {
        return el("span", { class: `atelier-pill is-${status}`, text: (STATUS[status] || (() => status))() });
    }

    window.atelier.badge = badge;
})();
