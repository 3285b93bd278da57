// The samples of a run as a grid: a row for each prompt, a column for each step, step 0 included.
(function () {
    "use strict";

    const { t, el, lightbox } = window.atelier;

    class Samples {
        constructor(runId) {
            this.runId = runId;
            this.byFile = new Map();
            this.cells = new Map();
        }

        take(event) {
            this.byFile.set(event.file, event);
        }

        url(sample) {
            return `${window.atelier.PREFIX}runs/${encodeURIComponent(this.runId)}/samples/${encodeURIComponent(sample.file)}`;
        }

        // Prompts in the order of their first picture; the one without the trigger word last.
        rows() {
            const rows = new Map();
            for (const sample of this.byFile.values()) {
                const key = `${sample.trigger ? 0 : 1} ${sample.prompt}`;
                if (!rows.has(key)) rows.set(key, { prompt: sample.prompt, trigger: sample.trigger, samples: new Map() });
                rows.get(key).samples.set(sample.step, sample);
            }
            return [...rows.values()].sort((one, other) => other.trigger - one.trigger);
        }

        // The one whose pictures come first.
        prompt() {
            const [first] = this.rows();
            return first && first.trigger ? first.prompt : "";
        }

        steps() {
            return [...new Set([...this.byFile.values()].map((sample) => sample.step))].sort((one, other) => one - other);
        }

        render(bestStep) {
            const steps = this.steps();
            const rows = this.rows();
            const all = rows.flatMap((row) => steps.filter((step) => row.samples.has(step)).map((step) => row.samples.get(step)));
            const pictures = all.map((sample) => ({ url: this.url(sample), title: this.stepName(sample.step), text: sample.prompt || t("(no prompt)") }));
            const head = el("tr", {}, el("th", { scope: "col" }, el("span", { class: "atelier-spoken", text: t("Prompt") })), ...steps.map((step) => el("th", { scope: "col", class: step === bestStep ? "is-best" : "" }, `${step === bestStep ? "★ " : ""}${this.stepName(step)}`)));
            const body = rows.map((row) =>
                el(
                    "tr",
                    {},
                    el("th", { scope: "row" }, el("span", { text: row.prompt || t("(no prompt)"), title: row.prompt }), !row.trigger && el("small", { text: t("without the trigger word: nothing of it should be seen here") })),
                    ...steps.map((step) => el("td", {}, row.samples.has(step) && this.cell(row.samples.get(step), () => lightbox(pictures, all.indexOf(row.samples.get(step))))))
                )
            );
            return this.scrolled(el("div", { class: "atelier-samples", id: "atelier_samples", tabindex: 0, role: "region", "aria-label": t("Samples") }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...body))));
        }

        // Where not all columns have room the newest is what is seen, unless somebody looked at earlier ones.
        scrolled(region) {
            const { shown } = this;
            const left = shown && shown.scrollLeft + shown.clientWidth < shown.scrollWidth - 4 ? shown.scrollLeft : 1e6;
            this.shown = region;
            window.requestAnimationFrame(() => (region.scrollLeft = left));
            return region;
        }

        // A picture that was loaded is kept: the grid is made anew with each new one.
        cell(sample, open) {
            let made = this.cells.get(sample.file);
            if (!made) {
                const image = el("img", { src: this.url(sample), alt: "", loading: "lazy", width: 112, height: 112 });
                made = el("button", { type: "button", class: "atelier-sample" }, image);
                this.cells.set(sample.file, made);
            }
            made.onclick = open;
            made.setAttribute("aria-label", `${this.stepName(sample.step)}: ${sample.prompt}`);
            return made;
        }

        stepName(step) {
            return step === 0 ? t("before") : t("step {step}", { step });
        }
    }

    window.atelier.Samples = Samples;
})();
