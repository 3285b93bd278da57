// What a finished LoRA's file says of rights, what the guard found of pictures made with it, and the report of it all.
(function () {
    "use strict";

    const { t, api, el, replace, errorBox, lightbox } = window.atelier;
    const MOST = 12;

    function rightsOf(run) {
        const name = run.result && run.result.name;
        const said = el("div", { class: "atelier-rights-inside" });
        const more = el("details", { class: "atelier-fold", id: "atelier_file_rights" }, el("summary", { text: t("What the file says of its pictures") }), said);
        more.addEventListener("toggle", () => more.open && !said.childElementCount && fill(said, name));
        return el("div", { class: "atelier-rights-inside" }, name && more, guardLog(name), reports(run));
    }

    async function fill(place, name) {
        try {
            const { rights, sentences, signed } = await api("GET", `rights/loras/${encodeURIComponent(name)}`);
            const rows = rights ? [...told(rights), signed] : sentences;
            replace(place, el("ul", { class: "atelier-facts" }, ...rows.map((text) => el("li", { text }))));
        } catch (error) {
            replace(place, errorBox(error));
        }
    }

    // What is in the file, for people; programs have it as it is.
    function told(rights) {
        const { BASES, permitsSaid } = window.atelier;
        const counted = (counts, words) => Object.entries(counts || {}).map(([name, count]) => t("{name} ({count})", { name: words[name] ? words[name]() : name, count })).join(t(", "));
        const mining = { prohibited: () => t("forbidden"), allowed: () => t("allowed"), none_found: () => t("nothing") };
        const rows = [
            t("{count} pictures; {refused} were left out, {override} were used against a prohibition.", { count: rights.pictures || 0, refused: rights.refused || 0, override: rights.override || 0 }),
            rights.basis && t("Why they may be used: {counts}", { counts: counted(rights.basis, BASES) }),
            rights.licences && counted(rights.licences, {}) && t("Licences: {counts}", { counts: counted(rights.licences, {}) }),
            rights.data_mining && t("What the files say about training: {counts}", { counts: counted(rights.data_mining, mining) }),
            rights.permits && t("By what is stated, all together: {answers}.", { answers: permitsSaid(rights.permits) }),
            rights.sharing === false && t("It, or one that it goes on from, was trained as an experiment and is not for sharing."),
            Array.isArray(rights.credits) && rights.credits.length > 0 && t("Credits: {names}", { names: rights.credits.join(t(", ")) }),
            t("What is stated was stated by who trained it; nobody else checked it."),
        ];
        return rows.filter(Boolean);
    }

    // The pictures of this program that were compared with the training pictures, those that came near first.
    function guardLog(name) {
        const inside = el("div", { class: "atelier-rights-inside" });
        const summary = el("summary", { text: t("Pictures made with it") });
        const place = el("details", { class: "atelier-fold", id: "atelier_guard", hidden: true }, summary, inside);
        if (!name) return place;
        api("GET", `guard?lora=${encodeURIComponent(name)}`).then(
            ({ pictures }) => {
                if (!pictures.length) return;
                place.hidden = false;
                const near = pictures.filter((picture) => picture.near);
                summary.textContent = near.length ? t("Pictures made with it: {near} of {count} came near a training picture", { near: near.length, count: pictures.length }) : t("Pictures made with it: {count} compared, none came near a training picture", { count: pictures.length });
                const pairs = near.filter((picture) => picture.pair).slice(0, MOST);
                const shown = pairs.map((picture) => ({ url: `${window.atelier.PREFIX}guard/pairs/${encodeURIComponent(picture.pair)}`, title: picture.near.picture, text: picture.sentence }));
                const pair = (each, at) => el("button", { type: "button", class: "atelier-sample is-pair", "aria-label": each.title, onclick: () => lightbox(shown, at) }, el("img", { src: each.url, alt: "", loading: "lazy" }));
                replace(
                    inside,
                    shown.length > 0 && el("div", { class: "atelier-row is-wrapping" }, ...shown.map(pair)),
                    ...near.slice(0, MOST).map((picture) => el("p", { class: "atelier-hint", text: [picture.picture, picture.sentence, decision(picture.decision)].filter(Boolean).join(" – ") })),
                    el("p", { class: "atelier-hint", text: t("The comparison finds copies of whole pictures and of parts. It can't see a style or the likeness of a figure or a person.") })
                );
            },
            () => undefined
        );
        return place;
    }

    function decision(name) {
        const words = { kept: () => t("kept"), discarded: () => t("discarded"), "drawn again": () => t("drawn again"), "weight lowered": () => t("drawn again with less weight") };
        return words[name] ? words[name]() : "";
    }

    // One record of it all, to be printed or read by programs.
    function reports(run) {
        const url = (kind) => `${window.atelier.PREFIX}rights/reports/${kind}/${encodeURIComponent(run.id)}?lang=${window.atelier.lang()}`;
        return el(
            "p",
            { class: "atelier-rights-links" },
            el("a", { class: "atelier-button is-small", href: url("html"), target: "_blank", rel: "noopener", id: "atelier_report", text: t("Report for counsel") }),
            " ",
            el("a", { class: "atelier-link", href: url("json"), download: `${run.name}-rights.json`, text: t("as JSON") }),
            " · ",
            el("a", { class: "atelier-link", href: window.atelier.guideUrl(), target: "_blank", rel: "noopener", text: t("What creators should know") }),
            el("br"),
            el("small", { class: "atelier-hint", text: t("A record of what was stated, found and done, not advice. Unclear cases need an expert.") })
        );
    }

    window.atelier.rightsOf = rightsOf;
})();
