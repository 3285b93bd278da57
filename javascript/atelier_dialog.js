// A dialog above the page, and one that shows pictures large and goes from one to the next.
(function () {
    "use strict";

    const { t, el, find, replace } = window.atelier;

    // The browser's own modal dialog: Escape closes it, and the focus stays in it and returns afterwards.
    function dialog(title, content, options) {
        const { wide, onclose } = options || {};
        const close = () => shown.close();
        const shown = el(
            "dialog",
            { class: `atelier-dialog${wide ? " is-wide" : ""}`, "aria-label": title },
            el(
                "header",
                { class: "atelier-dialog-head" },
                el("h3", { text: title }),
                el("button", { type: "button", class: "atelier-close", "aria-label": t("Close"), onclick: close, text: "×" })
            ),
            content
        );
        shown.addEventListener("close", () => {
            shown.remove();
            if (onclose) onclose();
        });
        // A press beside the dialog closes it; one that began inside (a marked text) does not.
        shown.addEventListener("pointerdown", (event) => event.target === shown && outside(shown, event) && close());
        (find("atelier_root") || document.body).append(shown);
        shown.showModal();
        return { element: shown, close };
    }

    function outside(shown, event) {
        const box = shown.getBoundingClientRect();
        return event.clientX < box.left || event.clientX > box.right || event.clientY < box.top || event.clientY > box.bottom;
    }

    // pictures: [{url, title, text}]; arrow keys go on.
    function lightbox(pictures, at) {
        const place = el("div", { class: "atelier-lightbox" });
        const show = () => {
            const picture = pictures[at];
            replace(
                place,
                el("img", { src: picture.url, alt: picture.text || picture.title }),
                el(
                    "div",
                    { class: "atelier-lightbox-foot" },
                    step(-1, t("The one before"), "‹"),
                    el("div", {}, el("strong", { text: picture.title }), el("p", { class: "atelier-hint", text: picture.text || "" })),
                    step(1, t("The next one"), "›")
                )
            );
        };
        const move = (by) => {
            at = (at + by + pictures.length) % pictures.length;
            show();
        };
        const step = (by, label, sign) =>
            pictures.length > 1 && el("button", { type: "button", class: "atelier-step", "aria-label": label, onclick: () => move(by), text: sign });
        show();
        const shown = dialog(t("Picture"), place, { wide: true });
        shown.element.addEventListener("keydown", (event) => {
            const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
            if (by && pictures.length > 1) move(by);
        });
    }

    // A question before something that can't be undone.
    function confirm(title, text, label, act) {
        const go = el("button", { type: "button", class: "atelier-button is-danger", text: label });
        const shown = dialog(title, el("div", { class: "atelier-asked" }, el("p", { text }), el("div", { class: "atelier-row is-end" }, go)));
        go.addEventListener("click", () => {
            shown.close();
            act();
        });
        go.focus();
    }

    Object.assign(window.atelier, { dialog, lightbox, confirm });
})();
