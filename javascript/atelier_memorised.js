// The rights of a finished LoRA on one panel: what its file says, which training pictures come back, the guard's log.
(function () {
    "use strict";

    const { t, api, el, replace, lightbox } = window.atelier;
    const FIRST = 6; // rows that are shown at once; the rest is folded
    const VERDICTS = { "copy-like": () => t("a copy"), close: () => t("close"), "nothing found": () => t("nothing found") };

    function memorised(run) {
        const tested = el("div", { class: "atelier-rights-inside", hidden: true });
        const base = `runs/${encodeURIComponent(run.id)}/memorisation`;
        // Empty until it is known that there was a test.
        api("GET", base).then(
            (said) => {
                if (!said.sentence) return;
                tested.hidden = false;
                const found = said.pictures.filter((picture) => picture.verdict !== "nothing found");
                replace(tested, el("h4", { text: t("Do training pictures come back?") }), el("p", { text: said.sentence }), ...tables(found, base));
            },
            () => undefined
        );
        return el("section", { class: "atelier-card", id: "atelier_memorised" }, el("h3", { text: t("Rights and copies") }), tested, window.atelier.rightsOf(run));
    }

    // The worst first, as the test ranked them.
    function tables(found, base) {
        if (!found.length) return [];
        const url = (picture) => `${window.atelier.PREFIX}${base}/${encodeURIComponent(picture.pair)}`;
        const shown = found.filter((picture) => picture.pair).map((picture) => ({ url: url(picture), title: picture.name, text: verdict(picture) }));
        const row = (picture) => {
            const open = picture.pair && el("button", { type: "button", class: "atelier-sample is-pair", "aria-label": picture.name, onclick: () => lightbox(shown, shown.findIndex((each) => each.title === picture.name)) }, el("img", { src: url(picture), alt: "", loading: "lazy" }));
            const weight = picture.safe_weight === null || picture.safe_weight === undefined ? "–" : String(picture.safe_weight);
            return el("tr", {}, el("td", {}, open), el("th", { scope: "row", text: picture.name }), el("td", { text: verdict(picture) }), el("td", { text: weight }));
        };
        const rest = found.slice(FIRST);
        return [table(found.slice(0, FIRST).map(row)), rest.length > 0 && el("details", { class: "atelier-fold" }, el("summary", { text: t("{count} more", { count: rest.length }) }), table(rest.map(row)))];
    }

    function table(rows) {
        const head = el("tr", {}, el("th", { scope: "col", text: t("training picture beside what was drawn") }), el("th", { scope: "col", text: t("Name") }), el("th", { scope: "col", text: t("Found") }), el("th", { scope: "col", text: t("free up to weight") }));
        return el("div", { class: "atelier-samples", tabindex: 0, role: "region", "aria-label": t("Do training pictures come back?") }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)));
    }

    function verdict(picture) {
        return (VERDICTS[picture.verdict] || (() => picture.verdict))();
    }

    window.atelier.memorised = memorised;
})();
