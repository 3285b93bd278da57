// Whether a training's pictures come back: what the test at its end found, picture by picture.
(function () {
    "use strict";

    const { t, api, el, replace, lightbox } = window.atelier;
    const VERDICTS = { "copy-like": () => t("a copy"), close: () => t("close"), "nothing found": () => t("nothing found") };

    // Empty until it is known that there was a test.
    function memorised(run) {
        const element = el("section", { class: "atelier-card", id: "atelier_memorised", hidden: true });
        const base = `runs/${encodeURIComponent(run.id)}/memorisation`;
        api("GET", base).then(
            (said) => {
                if (!said.sentence) return;
                element.hidden = false;
                const found = said.pictures.filter((picture) => picture.verdict !== "nothing found");
                replace(element, el("h3", { text: t("Do training pictures come back?") }), el("p", { text: said.sentence }), found.length > 0 && table(found, base));
            },
            () => undefined
        );
        return element;
    }

    function table(found, base) {
        const url = (picture) => `${window.atelier.PREFIX}${base}/${encodeURIComponent(picture.pair)}`;
        const shown = found.filter((picture) => picture.pair).map((picture) => ({ url: url(picture), title: picture.name, text: (VERDICTS[picture.verdict] || (() => picture.verdict))() }));
        const row = (picture) => {
            const open = picture.pair && el("button", { type: "button", class: "atelier-sample is-pair", "aria-label": picture.name, onclick: () => lightbox(shown, shown.findIndex((each) => each.title === picture.name)) }, el("img", { src: url(picture), alt: "", loading: "lazy" }));
            const weight = picture.safe_weight === null || picture.safe_weight === undefined ? "–" : String(picture.safe_weight);
            return el("tr", {}, el("td", {}, open), el("th", { scope: "row", text: picture.name }), el("td", { text: (VERDICTS[picture.verdict] || (() => picture.verdict))() }), el("td", { text: weight }));
        };
        const head = el("tr", {}, el("th", { scope: "col", text: t("training picture beside what was drawn") }), el("th", { scope: "col", text: t("Name") }), el("th", { scope: "col", text: t("Found") }), el("th", { scope: "col", text: t("free up to weight") }));
        return el("div", { class: "atelier-samples", tabindex: 0, role: "region", "aria-label": t("Do training pictures come back?") }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...found.map(row))));
    }

    window.atelier.memorised = memorised;
})();
