// Checkpoints of a training side by side, at several weights, drawn by the host's own sampler; one of them kept.
(function () {
    "use strict";

    const { t, api, el, button, link, replace, errorBox } = window.atelier;
    const POLL_MS = 1200;

    class Compare {
        // `prompt` is what is proposed to be drawn.
        constructor(run, prompt) {
            this.run = run;
            this.cells = new Map();
            this.base = `checkpoints/${encodeURIComponent(run.id)}`;
            this.prompt = el("input", { type: "text", class: "atelier-input", id: "atelier_compare_prompt", value: prompt || run.trigger, maxlength: 2000 });
            this.weights = el("input", { type: "text", class: "atelier-input", id: "atelier_compare_weights", value: "0.4, 0.8, 1" });
            this.seed = el("input", { type: "number", class: "atelier-input", id: "atelier_compare_seed", value: 1, min: 0, step: 1 });
            this.said = el("div", { class: "atelier-notes", role: "status" });
            this.grid = el("div", { class: "atelier-samples", tabindex: 0, role: "region", "aria-label": t("Compare") });
            this.bar = el("progress", { class: "atelier-progress", max: 1, value: 0, hidden: true, "aria-label": t("Compare") });
            this.list = el("div", { class: "atelier-row is-wrapping", id: "atelier_checkpoints" });
            this.go = button(t("Draw them"), () => this.start(), { id: "atelier_compare" });
            this.stop = button(t("Stop"), () => api("POST", `${this.base}/cancel`), { hidden: true });
            const field = (input, label) => el("label", { class: "atelier-field", for: input.id }, el("span", { text: label }), input);
            this.form = el("div", { class: "atelier-compare-form", hidden: true }, field(this.prompt, t("Prompt")), field(this.weights, t("Weights")), field(this.seed, t("Seed")), el("div", { class: "atelier-row" }, this.go, this.stop));
            this.element = el("section", { class: "atelier-card", id: "atelier_compare_card", hidden: true }, el("h3", { text: t("Compare") }), el("p", { class: "atelier-hint", text: t("The LoRAs of several steps at several weights, drawn by this program from the same seed.") }), this.form, this.bar, this.said, this.grid, this.list);
            this.load();
        }

        async load() {
            try {
                const said = await api("GET", this.base);
                this.checkpoints = said.checkpoints;
                this.element.hidden = !said.checkpoints.length;
                this.form.hidden = !said.can_compare;
                this.drawList();
                if (said.grid) this.show(said.grid);
            } catch (error) {
                replace(this.said, errorBox(error));
            }
        }

        async start() {
            const weights = this.weights.value.split(/[,、\s]+/).filter(Boolean).map(Number);
            try {
                replace(this.said);
                this.cells.clear();
                const { grid } = await api("POST", `${this.base}/compare`, { prompt: this.prompt.value, weights, seed: Math.round(Number(this.seed.value)) });
                this.show(grid);
            } catch (error) {
                replace(this.said, errorBox(error));
            }
        }

        show(grid) {
            const drawing = grid.state === "drawing";
            const total = grid.steps.length * grid.weights.length;
            this.bar.hidden = !drawing;
            this.bar.value = grid.done / total;
            this.go.disabled = drawing;
            this.stop.hidden = !drawing;
            if (grid.error) replace(this.said, el("p", { class: "atelier-note is-problem", text: grid.error }));
            this.prompt.value = grid.prompt;
            const url = (file) => `${window.atelier.PREFIX}${this.base}/pictures/${file}?v=${Math.round(grid.created)}`;
            const name = (step, weight) => `step-${String(step).padStart(6, "0")}-${weight}.png`;
            const made = new Set(grid.files);
            const pictures = grid.steps.flatMap((step) => grid.weights.map((weight) => ({ file: name(step, weight), title: t("step {step}, weight {weight}", { step, weight }), text: grid.prompt }))).filter((each) => made.has(each.file));
            const open = (file) => window.atelier.lightbox(pictures.map((each) => ({ ...each, url: url(each.file) })), pictures.findIndex((each) => each.file === file));
            const cell = (step, weight) => {
                const file = name(step, weight);
                if (!made.has(file)) return el("td", {}, el("span", { class: "atelier-sample is-waiting" }));
                if (!this.cells.has(file)) this.cells.set(file, el("button", { type: "button", class: "atelier-sample", "aria-label": t("step {step}, weight {weight}", { step, weight }) }, el("img", { src: url(file), alt: "", width: 112, height: 112 })));
                const button = this.cells.get(file);
                button.onclick = () => open(file);
                return el("td", {}, button);
            };
            replace(
                this.grid,
                el(
                    "table",
                    {},
                    el("thead", {}, el("tr", {}, el("th"), ...grid.weights.map((weight) => el("th", { scope: "col", text: `× ${weight}` })))),
                    el("tbody", {}, ...grid.steps.map((step) => el("tr", {}, el("th", { scope: "row" }, `${grid.kinds[step] === "best" ? "★ " : ""}${t("step {step}", { step })}`), ...grid.weights.map((weight) => cell(step, weight)))))
                ),
                made.has("grid.png") && el("a", { class: "atelier-link", href: url("grid.png"), download: `${this.run.name}-compare.png`, text: t("Save as a picture") })
            );
            if (drawing && this.element.isConnected !== false) window.setTimeout(() => this.poll(), POLL_MS);
        }

        async poll() {
            if (!this.element.isConnected) return;
            const said = await api("GET", this.base).catch(() => null);
            if (said && said.grid) this.show(said.grid);
            else window.setTimeout(() => this.poll(), 3 * POLL_MS);
        }

        // Each step that was kept, to be used as a LoRA of its own.
        drawList() {
            const steps = this.checkpoints.filter((each) => each.kind !== "result");
            if (!steps.length) return;
            const choice = el("select", { class: "atelier-input is-narrow", id: "atelier_keep_step", "aria-label": t("Step") }, ...steps.map((each) => el("option", { value: each.step, selected: each.kind === "best", text: `${each.kind === "best" ? "★ " : ""}${t("step {step}", each)}` })));
            const keep = async () => {
                try {
                    const kept = await api("POST", `${this.base}/keep`, { step: Number(choice.value) });
                    replace(this.said, el("p", {}, t("It is in the LoRA folder now:"), " ", el("code", { class: "atelier-tag", text: kept.tag }), " ", link(t("Try it now"), () => window.atelier.tryIt(kept))));
                    if (window.atelier.refreshCards) window.atelier.refreshCards();
                } catch (error) {
                    replace(this.said, errorBox(error));
                }
            };
            replace(this.list, el("span", { text: t("Another step is better?") }), choice, button(t("Keep it as a LoRA"), keep, { id: "atelier_keep" }));
        }
    }

    window.atelier.Compare = Compare;
})();
