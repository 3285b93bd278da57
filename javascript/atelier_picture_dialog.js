// One picture large: what is wrong with it, its caption, and on to the next.
(function () {
    "use strict";

    const { t, el, button, replace, dialog } = window.atelier;

    function pictureDialog(pictures, at) {
        const place = el("div", { class: "atelier-picture" });
        let written = null;
        const keep = async () => {
            const before = pictures.shown[at];
            if (!before || !written || written.value.trim() === before.caption) return;
            before.caption = written.value.trim(); // closing right afterwards must not send it again
            await pictures.caption(before.name, written.value);
        };
        const move = async (by) => {
            await keep();
            if (!pictures.shown.length) return shown.close();
            at = (at + by + pictures.shown.length) % pictures.shown.length;
            show();
        };
        const show = () => {
            const picture = pictures.shown[at];
            if (!picture) return shown.close();
            written = el("textarea", { class: "atelier-input", id: "atelier_caption", rows: 3, placeholder: t("Say what can be seen, beside what is to be learned") });
            written.value = picture.caption;
            const url = picture.thumbnail_url ? `.${picture.thumbnail_url}?large=1` : null;
            replace(
                place,
                url ? el("img", { src: url, alt: picture.caption || picture.name }) : el("p", { class: "atelier-hint", text: t("There is nothing to show.") }),
                el(
                    "div",
                    { class: "atelier-picture-side" },
                    el("strong", { class: "atelier-long", text: picture.name }),
                    picture.width > 0 && el("span", { class: "atelier-hint", text: t("{width} × {height} pixels", picture) }),
                    ...picture.problems.map((text) => el("p", { class: "atelier-note", text })),
                    twin(pictures, picture),
                    el("label", { class: "atelier-field", for: "atelier_caption" }, el("span", { text: t("Caption") }), written),
                    pictures.rights && picture.width > 0 && new window.atelier.PictureRights(pictures.rights, picture.name, picture.problems).element,
                    el(
                        "div",
                        { class: "atelier-row" },
                        button("‹", () => move(-1), { "aria-label": t("The one before") }),
                        button("›", () => move(1), { "aria-label": t("The next one"), id: "atelier_next_picture" }),
                        button(t("Leave out"), async () => {
                            written = null;
                            await pictures.leaveOut({ names: [picture.name] });
                            at = Math.min(at, pictures.shown.length - 1);
                            show();
                        })
                    )
                )
            );
        };
        const shown = dialog(t("Picture"), place, { wide: true, onclose: keep });
        show();
        shown.element.addEventListener("keydown", (event) => {
            const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -1, PageDown: 1 }[event.key];
            if (by && (event.key.startsWith("Page") || !["TEXTAREA", "INPUT", "SELECT"].includes(event.target.tagName))) move(by);
        });
    }

    // The picture that it doubles, beside it.
    function twin(pictures, picture) {
        const other = picture.other && pictures.shown.find((each) => each.name === picture.other);
        return other && other.thumbnail_url && el("img", { class: "atelier-twin", src: "." + other.thumbnail_url, alt: other.name });
    }

    window.atelier.pictureDialog = pictureDialog;
})();
