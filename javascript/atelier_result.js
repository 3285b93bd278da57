// What a training made: the file, how to call it, its card, whether it loads here; Try it now.
(function () {
    "use strict";

    const { t, api, el, button, replace, errorBox } = window.atelier;

    class Result {
        constructor(made, run) {
            this.made = made;
            this.run = run;
            this.loads = el("p", { class: "atelier-hint", id: "atelier_loads", text: t("Looking whether it loads here …") });
            this.kept = el("span", { class: "atelier-hint", role: "status" });
        }

        render() {
            const { made } = this;
            const preview = el("img", { src: "." + made.preview_url, alt: "", class: "atelier-result-picture" });
            preview.addEventListener("error", () => preview.remove(), { once: true });
            this.tag = el("code", { class: "atelier-tag", text: made.tag });
            const element = el(
                "div",
                { class: "atelier-result", id: "atelier_result" },
                preview,
                el(
                    "div",
                    { class: "atelier-result-words" },
                    el("p", { class: "atelier-result-title", text: t("Your LoRA is ready.") }),
                    el("div", { class: "atelier-row" }, this.tag, button(t("Copy"), () => this.copy(), { kind: "is-small", id: "atelier_copy" })),
                    el("p", { class: "atelier-hint", text: t("Say “{trigger}” in the prompt to call it.", made) }),
                    this.loads,
                    el("div", { class: "atelier-row" }, button(t("Try it now"), () => window.atelier.tryIt({ ...made, tag: this.tag.textContent }), { kind: "is-primary", id: "atelier_try" }), this.kept)
                ),
                this.card()
            );
            this.look();
            return element;
        }

        async copy() {
            const text = `${this.tag.textContent} ${this.made.trigger}`;
            try {
                await navigator.clipboard.writeText(text);
                this.kept.textContent = t("Copied.");
            } catch (error) {
                window.getSelection().selectAllChildren(this.tag);
            }
        }

        // --------------------------------------------------------------------------------------------- the card

        card() {
            const field = (id, label, input) => el("label", { class: "atelier-field", for: id }, el("span", { text: label }), input);
            this.trigger = el("input", { type: "text", class: "atelier-input", id: "atelier_card_trigger", maxlength: 400 });
            this.weight = el("input", { type: "number", class: "atelier-input", id: "atelier_card_weight", min: -2, max: 2, step: 0.05 });
            this.notes = el("textarea", { class: "atelier-input", id: "atelier_card_notes", rows: 2, maxlength: 4000 });
            const form = el(
                "form",
                { class: "atelier-card-form" },
                el("div", { class: "atelier-fields" }, field("atelier_card_trigger", t("Trigger words"), this.trigger), field("atelier_card_weight", t("Preferred weight"), this.weight)),
                field("atelier_card_notes", t("Notes"), this.notes),
                el("div", { class: "atelier-row is-end" }, el("button", { type: "submit", class: "atelier-button", id: "atelier_keep_card", text: t("Keep card") }))
            );
            form.addEventListener("submit", (event) => {
                event.preventDefault();
                this.keep();
            });
            return el("details", { class: "atelier-more-of-it" }, el("summary", { text: t("Card beside the file") }), form);
        }

        async look() {
            const name = encodeURIComponent(this.made.name);
            try {
                const card = await api("GET", `loras/${name}/card`);
                this.show(card);
                const said = await api("GET", `loras/${name}/loads`);
                replace(this.loads, said.sentence && el("span", { class: said.all ? "is-good" : "is-hint", text: said.sentence }));
            } catch (error) {
                replace(this.loads, errorBox(error));
            }
        }

        show(card) {
            this.trigger.value = card.trigger;
            this.weight.value = card.weight;
            this.notes.value = card.notes;
            this.tag.textContent = card.tag;
        }

        async keep() {
            try {
                const asked = { trigger: this.trigger.value, weight: Number(this.weight.value), notes: this.notes.value };
                this.show(await api("PUT", `loras/${encodeURIComponent(this.made.name)}/card`, asked));
                this.kept.textContent = t("Kept.");
                if (window.atelier.refreshCards) window.atelier.refreshCards();
            } catch (error) {
                replace(this.loads, errorBox(error));
            }
        }
    }

    window.atelier.Result = Result;
})();
