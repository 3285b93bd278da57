// The memory that a training will take: whether it fits, what would make it fit, its parts, and measuring it first.
(function () {
    "use strict";

    const { t, api, el, button, link, replace, errorBox } = window.atelier;
    const POLL_MS = 700;
    const STAGES = {
        starting: () => t("Starting …"),
        pictures: () => t("Looking at the pictures …"),
        model: () => t("Loading the base model …"),
        latents: () => t("Preparing the pictures …"),
        captions: () => t("Preparing the captions …"),
        samples: () => t("Drawing a sample …"),
        steps: () => t("Making a few steps …"),
    };

    class MemoryPlan {
        constructor(draft) {
            this.draft = draft;
            this.fit = el("div", { class: "atelier-fit", hidden: true });
            this.summary = el("summary");
            this.bar = el("div", { class: "atelier-memory-bar", "aria-hidden": "true" });
            this.list = el("ul", { class: "atelier-facts" });
            this.measuring = el("div", { class: "atelier-row is-wrapping", role: "status" });
            this.more = el("details", { class: "atelier-fold", id: "atelier_memory" }, this.summary, el("div", { class: "atelier-rights-inside" }, this.bar, this.list, this.measuring));
            this.element = el("div", { class: "atelier-memory", hidden: true }, this.more, this.fit);
        }

        draw() {
            const { plan } = this.draft;
            const memory = plan && plan.memory;
            this.element.hidden = !memory;
            if (!memory || this.drawn === plan) return;
            this.drawn = plan;
            this.summary.textContent = [memory.sentence, memory.measured && t("Measured.")].filter(Boolean).join(" ");
            this.summary.classList.toggle("is-problem", memory.fits === false);
            this.drawFit(memory);
            this.drawParts(memory);
            this.drawMeasuring();
        }

        // What would make it fit, in words, and the button that does it.
        drawFit(memory) {
            const { taken } = this.draft;
            this.fit.hidden = !memory.fit && !taken;
            if (memory.fit) {
                const make = () => this.draft.take(memory.fit.changes);
                replace(this.fit, el("ul", { class: "atelier-facts" }, ...memory.fit.sentences.map((text) => el("li", { text }))), button(memory.fit.fits ? t("Make it fit") : t("Make it smaller"), make, { kind: "is-small", id: "atelier_make_fit" }));
            } else if (taken) {
                replace(this.fit, el("span", { class: "atelier-hint" }, t("Settings were changed so that it fits."), " ", link(t("Undo"), () => this.draft.takeBack(), { id: "atelier_unfit" })));
            }
        }

        drawParts(memory) {
            const most = Math.max(memory.bytes, memory.free_bytes);
            const share = (count) => `${((100 * count) / most).toFixed(2)}%`;
            const parts = memory.parts.map((part) => el("span", { class: `is-${part.name}`, style: `width: ${share(part.bytes)}` }));
            const limit = memory.free_bytes && memory.free_bytes < memory.bytes && el("i", { style: `left: ${share(memory.free_bytes)}` });
            replace(this.bar, ...parts, limit);
            const row = (part) => el("li", {}, el("i", { class: `atelier-dot-of is-${part.name}`, "aria-hidden": "true" }), part.sentence);
            replace(this.list, ...memory.parts.map(row), el("li", { text: memory.disk }));
        }

        // ----------------------------------------------------------------------------------------- measuring

        drawMeasuring() {
            if (this.polling) return;
            const { form, plan } = this.draft;
            const can = form.engine === "native" && !plan.memory.measured;
            const hint = el("span", { class: "atelier-hint", text: t("Makes three steps and corrects the plan by what they took.") });
            replace(this.measuring, can && button(t("Measure first"), () => this.measure(), { kind: "is-small", id: "atelier_measure" }), can && hint);
        }

        async measure() {
            try {
                await api("POST", "measure", { form: this.draft.asked() });
                this.polling = true;
                for (let state = await this.state(); state.status === "running"; state = await this.state()) {
                    const words = (STAGES[state.stage] || STAGES.starting)();
                    replace(this.measuring, el("progress", { class: "atelier-progress", "aria-label": words, max: 1, value: state.total ? state.done / state.total : undefined }), el("span", { class: "atelier-hint", text: words }), link(t("Stop"), () => api("DELETE", "measure"), { id: "atelier_measure_stop" }));
                    await new Promise((resolve) => window.setTimeout(resolve, POLL_MS));
                }
                this.polling = false;
                await this.draft.askPlan();
                this.drawMeasuring();
            } catch (error) {
                this.polling = false;
                this.drawMeasuring();
                this.measuring.append(errorBox(error));
            }
        }

        async state() {
            const state = await api("GET", "measure");
            if (state.error) throw Object.assign(new Error(state.error.what), { said: state.error });
            return state;
        }
    }

    window.atelier.MemoryPlan = MemoryPlan;
})();
