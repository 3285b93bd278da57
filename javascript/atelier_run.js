// One run: how far it is, its loss, its samples, its end; and the list of earlier runs.
(function () {
    "use strict";

    const { t, api, el, svg, replace, duration, errorBox } = window.atelier;
    const STAGES = {
        starting: () => t("Starting …"),
        pictures: () => t("Looking at the pictures …"),
        model: () => t("Loading the base model …"),
        latents: () => t("Preparing the pictures …"),
        captions: () => t("Preparing the captions …"),
        samples: () => t("Drawing a sample …"),
        training: () => t("Training"),
    };
    const STATUS = {
        waiting: () => t("waiting"),
        running: () => t("running"),
        stopped: () => t("stopped"),
        finished: () => t("finished"),
        failed: () => t("failed"),
        died: () => t("ended unexpectedly"),
    };

    class RunView {
        constructor(id, onend) {
            this.id = id;
            this.onend = onend;
            this.next = 0;
            this.losses = [];
            this.heldout = [];
            this.samples = [];
            this.warnings = [];
            this.run = null;
            this.error = null;
            this.parts = {};
            this.element = el("section", { class: "atelier-card atelier-run", id: "atelier_run" });
        }

        async poll() {
            try {
                const [run, log] = await Promise.all([
                    api("GET", `runs/${this.id}`),
                    api("GET", `runs/${this.id}/events?since=${this.next}`),
                ]);
                const ended = this.run && this.run.status === "running" && run.status !== "running";
                this.run = run;
                this.next = log.next;
                log.events.forEach((event) => this.take(event));
                this.error = null;
                this.draw();
                if (ended) this.onend(run);
            } catch (error) {
                this.error = error;
                this.draw();
            }
        }

        take(event) {
            // A resumed run takes steps again that a killed one had made: the later ones count.
            const earlier = (points) => points.filter((point) => point.step < event.step);
            if (event.kind === "stepped") this.losses = [...earlier(this.losses), event];
            else if (event.kind === "validated") this.heldout = [...earlier(this.heldout), event];
            else if (event.kind === "sampled") this.samples = [...this.samples.filter((s) => s.file !== event.file), event];
            else if (event.kind === "warned") this.warnings.push(String(event.message));
            else if (event.kind === "started") this.warnings = [];
        }

        // Only what changed is made anew: a focus, a scrolled row and a loaded picture stay as they are.
        part(name, key, make) {
            const text = JSON.stringify([window.atelier.lang(), key]);
            if (!this.parts[name]) {
                this.parts[name] = { element: el("div", { class: "atelier-part" }), text: null };
                this.element.append(this.parts[name].element);
            }
            const part = this.parts[name];
            if (part.text === text) return;
            part.text = text;
            replace(part.element, ...[make()].flat());
        }

        draw() {
            const run = this.run || { status: "", name: "", step: 0, steps: 0 };
            const warnings = [...new Set(this.warnings)].slice(0, 6);
            this.part("head", [run.name, run.status], () =>
                run.status
                    ? el("header", { class: "atelier-run-head" }, el("h3", { text: run.name }), badge(run.status))
                    : !this.error && el("p", { text: t("Starting …") })
            );
            this.part("unreachable", this.error && this.error.message, () => this.error && errorBox(this.error));
            this.part("progress", run.status === "running", () => run.status === "running" && this.progressParts());
            if (run.status === "running") this.showProgress();
            this.part("error", run.error, () => run.error && errorBox({ said: run.error }));
            this.part(
                "stopped",
                [run.status, run.step],
                () => run.status === "stopped" && el("p", { text: t("Stopped at step {step} of {steps}. Nothing is lost.", run) })
            );
            this.part("result", [run.status, run.result], () => run.status === "finished" && run.result && result(run));
            this.part("buttons", [run.status, run.can_resume], () => this.buttons());
            this.part(
                "chart",
                [this.losses.length, this.losses.at(-1), this.heldout.length, run.steps],
                () => this.losses.length > 1 && chart(this.losses, this.heldout, run.steps)
            );
            this.part("samples", this.samples, () => this.samples.length > 0 && this.gallery());
            this.part("warnings", warnings, () => warnings.map((text) => el("p", { class: "atelier-note", text })));
        }

        progressParts() {
            this.bar = el("progress", { class: "atelier-progress", max: 1, value: 0 });
            this.label = el("p", { id: "atelier_progress" });
            // A screen reader hears every tenth, not every second.
            this.spoken = el("p", { class: "atelier-spoken", "aria-live": "polite" });
            return el("div", { class: "atelier-progressing" }, this.bar, this.label, this.spoken);
        }

        showProgress() {
            const { run } = this;
            const training = run.stage === "training" || run.stage === "samples";
            const [done, total] = training ? [run.step, run.steps] : [run.stage_done, run.stage_total];
            if (total) this.bar.value = done / total;
            else this.bar.removeAttribute("value");
            const left = run.seconds_left && run.step ? t("about {time} left", { time: duration(run.seconds_left) }) : "";
            const label = training
                ? [t("Step {step} of {steps}", { step: run.step, steps: run.steps }), left].filter(Boolean).join(" · ")
                : (STAGES[run.stage] || STAGES.starting)();
            this.label.textContent = label;
            this.bar.setAttribute("aria-label", label);
            const tenth = `${run.stage} ${total ? Math.floor((10 * done) / total) : 0}`;
            if (this.tenth !== tenth) this.spoken.textContent = label;
            this.tenth = tenth;
        }

        buttons() {
            const { run } = this;
            const act = (verb) => async () => {
                try {
                    this.run = (await api("POST", `runs/${this.id}/${verb}`)).run;
                    this.error = null;
                } catch (error) {
                    this.error = error;
                }
                this.draw();
            };
            if (!run || (run.status !== "running" && !run.can_resume)) return null;
            return el(
                "div",
                { class: "atelier-row" },
                run.status === "running" && el("button", { type: "button", class: "atelier-button", id: "atelier_stop", onclick: act("stop"), text: t("Stop") }),
                run.can_resume && el("button", { type: "button", class: "atelier-button is-primary", id: "atelier_resume", onclick: act("resume"), text: t("Resume") })
            );
        }

        gallery() {
            const latest = this.samples.slice(-8).reverse();
            return el(
                "div",
                {},
                el("h4", { text: t("Samples") }),
                el(
                    "div",
                    { class: "atelier-samples" },
                    ...latest.map((sample) =>
                        el(
                            "figure",
                            { class: "atelier-sample" },
                            el("img", { src: `${window.atelier.PREFIX}runs/${this.id}/samples/${encodeURIComponent(sample.file)}`, alt: sample.prompt, title: sample.prompt, loading: "lazy" }),
                            el("figcaption", { text: t("step {step}", { step: sample.step }) })
                        )
                    )
                )
            );
        }
    }

    function badge(status) {
        return el("span", { class: `atelier-pill is-${status}`, text: (STATUS[status] || (() => status))() });
    }

    function result(run) {
        const { result: made } = run;
        return el(
            "div",
            { class: "atelier-result", id: "atelier_result" },
            el("img", { src: "." + made.preview_url, alt: "", onerror: (event) => event.target.remove() }),
            el(
                "div",
                {},
                el("p", { class: "atelier-result-title", text: t("Your LoRA is ready.") }),
                el("code", { text: made.tag }),
                el("p", { class: "atelier-hint", text: t("Say “{trigger}” in the prompt to call it.", { trigger: made.trigger }) }),
                el("button", {
                    type: "button",
                    class: "atelier-button is-primary",
                    id: "atelier_try",
                    onclick: () => window.atelier.tryIt(made),
                    text: t("Try it now"),
                })
            )
        );
    }

    // ------------------------------------------------------------------------------------------------- chart

    const WIDTH = 560;
    const HEIGHT = 170;
    const EDGE = { left: 44, right: 12, top: 12, bottom: 24 };

    function smooth(points) {
        let mean = points[0].loss;
        return points.map((point) => ({ step: point.step, loss: (mean += 0.15 * (point.loss - mean)) }));
    }

    function chart(losses, heldout, steps) {
        const line = smooth(losses);
        const values = [...line, ...heldout].map((point) => point.loss).filter(Number.isFinite);
        const low = Math.min(...values);
        const high = Math.max(...values, low + 1e-6);
        const x = (step) => EDGE.left + (step / Math.max(1, steps)) * (WIDTH - EDGE.left - EDGE.right);
        const y = (loss) => EDGE.top + ((high - loss) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);
        const path = (points) => points.map((point, at) => `${at ? "L" : "M"}${x(point.step).toFixed(1)} ${y(point.loss).toFixed(1)}`).join("");
        const label = (text, at, top, anchor) => {
            const made = svg("text", { x: at, y: top, "text-anchor": anchor, class: "atelier-axis" });
            made.textContent = text;
            return made;
        };
        const drawing = svg(
            "svg",
            { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "atelier-chart", role: "img", "aria-label": t("Loss over the steps") },
            svg("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(low), y2: y(low), class: "atelier-grid-line" }),
            svg("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(high), y2: y(high), class: "atelier-grid-line" }),
            label(high.toPrecision(2), EDGE.left - 6, y(high) + 4, "end"),
            label(low.toPrecision(2), EDGE.left - 6, y(low) + 4, "end"),
            label("0", EDGE.left, HEIGHT - 6, "middle"),
            label(String(steps), WIDTH - EDGE.right, HEIGHT - 6, "end"),
            svg("path", { d: path(line), class: "atelier-line" }),
            svg("path", { d: path(heldout), class: "atelier-heldout" }),
            ...heldout.map((point) => svg("circle", { cx: x(point.step), cy: y(point.loss), r: 3.5, class: "atelier-dot" }))
        );
        return el(
            "figure",
            { class: "atelier-chart-frame" },
            drawing,
            el(
                "figcaption",
                {},
                el("span", { class: "atelier-key is-line", text: `${t("training loss, smoothed")} ${line.at(-1).loss.toPrecision(3)}` }),
                heldout.length > 0 &&
                    el("span", { class: "atelier-key is-dot", text: `${t("held-out pictures")} ${heldout.at(-1).loss.toPrecision(3)}` })
            )
        );
    }

    // -------------------------------------------------------------------------------------------- earlier runs

    function list(runs, current, open) {
        const others = runs.filter((run) => run.id !== current);
        if (!others.length) return null;
        return el(
            "section",
            { class: "atelier-card" },
            el("h3", { text: t("Earlier trainings") }),
            el(
                "ul",
                { class: "atelier-runs", id: "atelier_runs" },
                ...others.slice(0, 30).map((run) =>
                    el(
                        "li",
                        {},
                        el("button", { type: "button", class: "atelier-link", onclick: () => open(run.id), text: run.name }),
                        el("span", { class: "atelier-hint", text: run.created ? new Date(run.created * 1000).toLocaleString(window.atelier.lang(), { dateStyle: "medium", timeStyle: "short" }) : "" }),
                        badge(run.status)
                    )
                )
            )
        );
    }

    window.atelier.RunView = RunView;
    window.atelier.runList = list;
})();
