// The plan of the job that is being prepared: one sentence, what is to be said, and Train.
(function () {
    "use strict";

    const { t, el, replace, errorBox } = window.atelier;

    // It stands still while it changes: the card keeps its parts and only their words are replaced.
    class PlanCard {
        constructor(draft, onrun, number) {
            this.draft = draft;
            this.onrun = onrun;
            this.sentence = el("p", { class: "atelier-plan", id: "atelier_plan", "aria-live": "polite" });
            this.memory = new window.atelier.MemoryPlan(draft);
            this.rights = new window.atelier.RightsSummary(draft.rights);
            this.facts = el("ul", { class: "atelier-facts" });
            this.notes = el("div", { class: "atelier-notes" });
            this.button = el("button", { type: "button", class: "atelier-button is-primary is-large", id: "atelier_train", onclick: () => this.train(), text: t("Train") });
            this.element = el("section", { class: "atelier-card atelier-plan-card" }, heading(t("Plan"), number), this.sentence, this.facts, this.memory.element, this.rights.element, this.notes, this.button);
        }

        // ``places``: fields that have a place of their own to be complained about.
        draw(places) {
            const { draft } = this;
            const { plan } = draft;
            this.sentence.textContent = (plan && plan.sentence) || t("Add pictures to see what it will take.");
            this.sentence.classList.toggle("is-quiet", !(plan && plan.sentence));
            this.button.disabled = draft.pictures.busy > 0 || this.busy;
            const count = Object.keys(draft.changes).length;
            const summary = [plan && plan.sentence && t("It will be called “{name}”, and “{trigger}” calls it in a prompt.", { name: plan.name, trigger: draft.form.trigger || plan.suggested.trigger })];
            if (count) summary.push(count === 1 ? t("1 setting differs from the recipe.") : t("{count} settings differ from the recipe.", { count }));
            replace(this.facts, ...summary.filter(Boolean).map((text) => el("li", { text })));
            this.memory.draw();
            this.rights.draw();
            const rest = draft.problems().filter((problem) => !places.has(problem.field));
            replace(
                this.notes,
                draft.error && errorBox(draft.error),
                this.failed && errorBox(this.failed),
                ...rest.map((problem) => el("p", { class: problem.blocking ? "atelier-note is-problem" : "atelier-note", text: problem.sentence }))
            );
        }

        async train() {
            this.busy = true;
            this.button.disabled = true;
            this.failed = null;
            try {
                const run = await this.draft.train();
                if (run) this.onrun(run);
            } catch (error) {
                this.failed = error;
            }
            this.busy = false;
            this.draft.tell();
        }
    }

    function heading(title, number) {
        return el("h3", {}, number && el("span", { class: "atelier-number", "aria-hidden": "true", text: number }), title);
    }

    function card(number, title, ...children) {
        return el("section", { class: "atelier-card" }, heading(title, number), ...children);
    }

    Object.assign(window.atelier, { PlanCard, card });
})();
