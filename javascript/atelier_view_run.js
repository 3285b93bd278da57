// One training: how far it is, its curve, samples, meters, warnings, log, and its end.
(function () {
    "use strict";

    const { t, api, el, button, link, replace, duration, bytes, errorBox, confirm, badge, LossChart, Samples, Result, Compare, memorised } = window.atelier;
    const STAGES = {
        starting: () => t("Starting …"),
        pictures: () => t("Looking at the pictures …"),
        model: () => t("Loading the base model …"),
        latents: () => t("Preparing the pictures …"),
        captions: () => t("Preparing the captions …"),
        samples: () => t("Drawing a sample …"),
        training: () => t("Training"),
    };
    class RunPage {
        constructor(id, go, onend) {
            Object.assign(this, { id, go, onend, next: 0, warnings: [], run: null, error: null, parts: {} });
            this.chart = new LossChart();
            this.samples = new Samples(id);
            this.element = el("section", { class: "atelier-run", id: "atelier_run" });
        }

        isLive() {
            return !this.run || this.error || ["running", "queued"].includes(this.run.status);
        }

        async poll() {
            if (this.polling) return;
            this.polling = true;
            try {
                const { run, events, next, gpu } = await api("GET", `runs/${encodeURIComponent(this.id)}/live?since=${this.next}`);
                const ended = this.run && this.run.status === "running" && run.status !== "running";
                if (next < this.next) this.forget(); // its events were begun anew
                this.run = run;
                this.gpu = gpu;
                this.next = next;
                events.forEach((event) => this.take(event));
                this.error = null;
                this.draw();
                if (ended) this.onend(run);
            } catch (error) {
                this.error = error;
                this.draw();
            }
            this.polling = false;
        }

        forget() {
            this.chart = new LossChart();
            this.samples = new Samples(this.id);
            this.parts = {};
            replace(this.element);
        }

        take(event) {
            if (event.kind === "sampled") this.samples.take(event);
            else if (event.kind === "warned") this.warnings.push(String(event.message));
            else if (event.kind === "started") this.warnings = [];
            else this.chart.take(event);
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
            const running = run.status === "running";
            const warnings = [...new Set(this.warnings)].slice(0, 8);
            this.part("head", [run.name, run.status, run.trigger], () => this.head(run));
            this.part("unreachable", this.error && this.error.message, () => this.error && errorBox(this.error));
            this.part("error", run.error, () => run.error && errorBox({ said: run.error }));
            this.part("result", [run.status, run.result], () => run.status === "finished" && run.result && el("section", { class: "atelier-card" }, new Result(run.result, run).render()));
            this.part("progress", running, () => running && this.progressParts());
            if (running) this.showProgress();
            const lent = running && !this.error && this.gpu && this.gpu.lent && this.gpu.mode === "wait" ? this.gpu : null;
            this.part("gpu", lent, () => lent && this.card(lent));
            this.part("said", [run.status, run.step], () => this.sentence(run));
            this.part("buttons", [run.status, run.can_resume, run.remedy], () => this.buttons());
            // While it goes on, what is to come has its place already: nothing moves when it comes.
            const charted = running || this.chart.losses.length > 1;
            this.part("chart", charted, () => charted && this.chartCard());
            if (charted) this.chart.draw(run.steps);
            if (charted) this.bestSaid.textContent = this.best(run);
            const sampled = this.samples.byFile.size;
            this.part("samples", [sampled, running && !sampled, run.best && run.best.step], () => (running || sampled > 0) && el("section", { class: "atelier-card" }, el("h3", { text: t("Samples") }), sampled ? this.samples.render(run.best && run.best.step) : el("p", { class: "atelier-hint atelier-samples-empty", text: t("No sample was drawn yet.") })));
            this.part("compare", ["finished", "stopped", "paused"].includes(run.status) && run.step, () => ["finished", "stopped", "paused"].includes(run.status) && new Compare(run, this.samples.prompt()).element);
            this.part("memorised", run.status === "finished", () => run.status === "finished" && memorised(run));
            this.part("warnings", warnings, () => warnings.length > 0 && el("section", { class: "atelier-card" }, el("h3", { text: t("What was noticed") }), ...warnings.map((text) => el("p", { class: "atelier-note", text }))));
            this.part("log", Boolean(run.status), () => run.status && this.log());
            this.part("remove", run.status, () => !["", "running", "queued"].includes(run.status) && this.remover());
        }

        head(run) {
            if (!run.status) return !this.error && el("p", { class: "atelier-hint", text: t("Starting …") });
            return el("header", { class: "atelier-run-head" }, el("h2", { class: "atelier-long", text: run.name }), badge(run.status), el("span", { class: "atelier-hint", text: run.trigger }));
        }

        sentence(run) {
            if (run.status === "stopped") return el("p", { text: t("Stopped at step {step} of {steps}. Nothing is lost.", run) });
            if (run.status === "paused") return el("p", { text: t("Paused at step {step} of {steps}. Its memory is free, and the queue waits until it goes on.", run) });
            if (run.status === "queued") return el("p", {}, t("It waits for its turn."), " ", run.plan || "");
            if (run.status === "waiting") return el("p", { text: t("It was not started yet.") });
            return null;
        }

        chartCard() {
            this.bestSaid = el("p", { class: "atelier-hint atelier-best-said" });
            return el("section", { class: "atelier-card" }, el("h3", { text: t("Loss") }), this.chart.render(), this.bestSaid);
        }

        best(run) {
            if (!run.best) return "";
            const { step, loss } = run.best;
            const said = run.best.is_last ? t("The last measurement is the best so far: step {step}, {loss} on the held-out pictures.", { step, loss: loss.toPrecision(3) }) : t("Step {step} was better on the held-out pictures ({loss}) than what came after it; its LoRA is kept.", { step, loss: loss.toPrecision(3) });
            return `★ ${said}`;
        }

        // Who has the graphics card: pictures wait for it, unless they shall be drawn beside the training.
        card({ shared, waiting }) {
            const said = shared ? t("Pictures are drawn beside it.") : waiting ? t("A picture waits until it ends: it has the graphics card.") : t("Pictures wait until it ends: it has the graphics card.");
            const failed = el("span");
            const act = async () => {
                try {
                    this.gpu = (await api("POST", "gpu", { share: !shared })).gpu;
                    this.draw();
                } catch (error) {
                    replace(failed, errorBox(error));
                }
            };
            const label = shared ? t("Let them wait") : t("Draw beside it");
            return el("div", { class: "atelier-row is-wrapping", id: "atelier_gpu" }, el("span", { class: "atelier-hint", role: "status", text: said }), button(label, act, { kind: "is-small", id: "atelier_share_gpu", title: t("Shares the card's memory until this training ends; if it is too little, one of the two says so.") }), failed);
        }

        // ------------------------------------------------------------------------------------------- progress

        progressParts() {
            this.bar = el("progress", { class: "atelier-progress", max: 1, value: 0 });
            this.label = el("p", { id: "atelier_progress" });
            this.meters = el("dl", { class: "atelier-meters", id: "atelier_meters" });
            // A screen reader hears every tenth, not every second.
            this.spoken = el("p", { class: "atelier-spoken", "aria-live": "polite" });
            return el("section", { class: "atelier-card atelier-progressing" }, this.label, this.bar, this.meters, this.spoken);
        }

        showProgress() {
            const { run } = this;
            const training = run.stage === "training" || run.stage === "samples";
            const [done, total] = training ? [run.step, run.steps] : [run.stage_done, run.stage_total];
            if (total) this.bar.value = done / total;
            else this.bar.removeAttribute("value");
            const left = run.seconds_left && run.step ? t("about {time} left", { time: duration(run.seconds_left) }) : "";
            const label = training ? [t("Step {step} of {steps}", { step: run.step, steps: run.steps }), left].filter(Boolean).join(" · ") : (STAGES[run.stage] || STAGES.starting)();
            this.label.textContent = label;
            this.bar.setAttribute("aria-label", label);
            const tenth = `${run.stage} ${total ? Math.floor((10 * done) / total) : 0}`;
            if (this.tenth !== tenth) this.spoken.textContent = label;
            this.tenth = tenth;
            this.showMeters();
        }

        showMeters() {
            const { run } = this;
            const speed = run.seconds_per_step;
            const meter = (name, value) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }));
            const device = run.device ? (run.device.startsWith("cpu") ? t("processor") : run.card ? t("graphics card {number}", { number: run.card }) : t("graphics card")) : "–";
            replace(
                this.meters,
                run.epochs && meter(t("Epoch"), t("{epoch} of {epochs}", run)),
                meter(t("Speed"), speed ? (speed < 1 ? t("{count} steps a second", { count: (1 / speed).toFixed(1) }) : t("{count} seconds a step", { count: speed.toFixed(1) })) : "–"),
                meter(t("Memory"), run.memory_bytes ? bytes(run.memory_bytes) : "–"),
                meter(t("Computed on"), device),
                meter(t("Loss"), run.loss === null || run.loss === undefined ? "–" : run.loss.toPrecision(3))
            );
        }

        // ------------------------------------------------------------------------------------------- buttons

        buttons() {
            const { run } = this;
            if (!run) return null;
            const act = (verb, said) => async () => {
                try {
                    this.run = (await api("POST", `runs/${encodeURIComponent(this.id)}/${verb}`)).run;
                    this.error = null;
                    this.asked.textContent = said || "";
                } catch (error) {
                    this.error = error;
                }
                this.draw();
            };
            this.asked = el("span", { class: "atelier-hint", role: "status" });
            const is = (...statuses) => statuses.includes(run.status);
            return el(
                "div",
                { class: "atelier-row is-wrapping" },
                is("running") && button(t("Pause"), act("pause"), { id: "atelier_pause", title: t("Keeps its state and frees the memory; the queue waits.") }),
                is("running", "paused") && button(t("Stop"), act("stop"), { id: "atelier_stop", title: t("Keeps its state; the queue goes on.") }),
                is("queued") && button(t("Take out of the queue"), act("stop"), { id: "atelier_stop" }),
                run.can_resume && button(is("waiting") ? t("Start") : t("Resume"), act("resume"), { kind: "is-primary", id: "atelier_resume" }),
                run.can_resume && run.remedy === "less-memory" && button(t("Resume with less memory"), act("less-memory"), { id: "atelier_less_memory", title: t("Changes what costs memory and not what is learned: gradient checkpointing, then smaller batches.") }),
                is("running") && button(t("Sample now"), act("sample", t("It draws after this step.")), { id: "atelier_sample_now" }),
                is("running") && button(t("Save now"), act("save", t("It keeps a checkpoint after this step.")), { id: "atelier_save_now" }),
                this.asked
            );
        }

        remover() {
            const remove = () => confirm(t("Remove this training?"), t("Its log, samples and checkpoints are deleted. The finished LoRA stays."), t("Remove"), async () => {
                await api("DELETE", `runs/${encodeURIComponent(this.id)}`).then(() => this.go("queue"), (error) => {
                    this.error = error;
                    this.draw();
                });
            });
            return link(t("Remove this training"), remove, { id: "atelier_remove_run" });
        }

        log() {
            const text = el("pre", { class: "atelier-log", id: "atelier_log", tabindex: 0 });
            const open = el("details", { class: "atelier-card atelier-more-of-it" }, el("summary", { text: t("Log") }), text);
            const read = async () => {
                if (!open.open || !open.isConnected) return;
                const said = await api("GET", `runs/${encodeURIComponent(this.id)}/log`).catch(() => null);
                if (said && text.textContent !== said.text) {
                    const down = text.scrollTop + text.clientHeight > text.scrollHeight - 30;
                    text.textContent = said.text || t("Nothing was written yet.");
                    if (down) text.scrollTop = text.scrollHeight;
                }
                if (this.isLive()) window.setTimeout(read, 2000);
            };
            open.addEventListener("toggle", read);
            return open;
        }
    }

    window.atelier.RunPage = RunPage;
})();
