// All trainings: the one that goes on, those that wait and their order, those that were.
(function () {
    "use strict";

    const { t, api, el, button, link, replace, errorBox, duration, badge, environment } = window.atelier;
    const MOST = 100;

    class QueuePage {
        constructor(go) {
            this.go = go;
            this.runs = [];
            this.queue = [];
            this.held = false;
            this.error = null;
            this.element = el("div", { class: "atelier-queue", id: "atelier_queue" });
            this.key = null;
        }

        async refresh() {
            try {
                const said = await api("GET", "runs");
                Object.assign(this, { runs: said.runs, queue: said.queue, held: said.held, drawing: said.waits_for_picture, error: null });
            } catch (error) {
                this.error = error;
            }
        }

        running() {
            return this.runs.find((run) => run.status === "running") || null;
        }

        // Made anew only when something has changed: a focused button stays.
        draw() {
            const key = JSON.stringify([window.atelier.lang(), this.queue, this.held, this.drawing, this.error && this.error.message, this.runs.map((run) => [run.id, run.name, run.status, run.step, run.can_resume])]);
            if (key === this.key) return;
            this.key = key;
            const focused = document.activeElement && document.activeElement.id;
            const going = this.runs.filter((run) => run.status === "running" || run.status === "paused");
            const waiting = this.queue.map((id) => this.runs.find((run) => run.id === id)).filter((run) => run && run.status === "queued");
            const rest = this.runs.filter((run) => !going.includes(run) && !waiting.includes(run));
            replace(
                this.element,
                this.error && errorBox(this.error),
                this.part(t("Now"), going.length ? going.map((run) => this.going(run)) : [el("p", { class: "atelier-hint", text: t("No training is going on.") })]),
                waiting.length > 0 && this.part(t("Next"), [this.held && el("p", { class: "atelier-note", text: t("A training is paused; these wait until it goes on or is stopped.") }), this.drawing && el("p", { class: "atelier-note", text: t("The next one starts when the picture that is being drawn is ready.") }), el("ol", { class: "atelier-runs", id: "atelier_waiting" }, ...waiting.map((run, at) => this.waiting(run, at, waiting.length)))]),
                rest.length > 0 && this.part(t("Earlier trainings"), [el("ul", { class: "atelier-runs", id: "atelier_runs" }, ...rest.slice(0, MOST).map((run) => this.earlier(run))), rest.length > MOST && el("p", { class: "atelier-hint", text: t("and {count} more", { count: rest.length - MOST }) })]),
                !this.runs.length && this.nothing(),
                (this.machine = this.machine && this.machine.lang === window.atelier.lang() ? this.machine : this.about())
            );
            const again = focused && document.getElementById(focused);
            if (again && this.element.contains(again)) again.focus();
        }

        about() {
            return Object.assign(environment.machine(), { lang: window.atelier.lang() });
        }

        part(title, content) {
            return el("section", { class: "atelier-card" }, el("h3", { text: title }), ...content);
        }

        nothing() {
            return el("section", { class: "atelier-card atelier-empty" }, el("div", { class: "atelier-empty-mark", "aria-hidden": "true", text: "❖" }), el("p", { text: t("Nothing was trained yet.") }), button(t("Begin one"), () => this.go("new"), { kind: "is-primary" }));
        }

        name(run) {
            return link(run.name, () => this.go("run", run.id), { class: "atelier-link atelier-long", "data-run": run.id });
        }

        going(run) {
            const done = run.steps ? run.step / run.steps : 0;
            const left = run.seconds_left ? t("about {time} left", { time: duration(run.seconds_left) }) : "";
            return el(
                "div",
                { class: "atelier-going" },
                el("div", { class: "atelier-run-line" }, this.name(run), badge(run.status)),
                el("progress", { class: "atelier-progress", max: 1, value: done, "aria-label": t("Step {step} of {steps}", run) }),
                el("p", { class: "atelier-hint", text: [t("Step {step} of {steps}", run), left].filter(Boolean).join(" · ") }),
                el(
                    "div",
                    { class: "atelier-row is-wrapping" },
                    run.status === "running" && this.act(run, "pause", t("Pause")),
                    this.act(run, "stop", t("Stop")),
                    run.status === "paused" && this.act(run, "resume", t("Resume"))
                )
            );
        }

        act(run, verb, text, path, body) {
            return button(
                text,
                async () => {
                    try {
                        await api("POST", `runs/${encodeURIComponent(run.id)}/${path || verb}`, body);
                        await this.refresh();
                    } catch (error) {
                        this.error = error;
                    }
                    this.draw();
                },
                { id: `atelier_${verb}_${run.id}`, kind: "is-small" }
            );
        }

        waiting(run, at, count) {
            const move = (verb, sign, label, to, off) => {
                const made = this.act(run, verb, sign, "move", { to });
                made.setAttribute("aria-label", label);
                made.disabled = off;
                return made;
            };
            return el(
                "li",
                {},
                el("div", { class: "atelier-run-line" }, this.name(run), el("span", { class: "atelier-hint", text: run.planned_seconds ? t("about {time}", { time: duration(run.planned_seconds) }) : "" })),
                el("div", { class: "atelier-row" }, move("up", "↑", t("{name}: earlier", run), at - 1, at === 0), move("down", "↓", t("{name}: later", run), at + 1, at === count - 1), this.act(run, "stop", t("Take out")))
            );
        }

        earlier(run) {
            const when = run.created ? new Date(run.created * 1000).toLocaleString(window.atelier.lang(), { dateStyle: "medium", timeStyle: "short" }) : "";
            return el("li", {}, el("div", { class: "atelier-run-line" }, this.name(run), el("span", { class: "atelier-hint", text: when })), el("div", { class: "atelier-row" }, badge(run.status), run.can_resume && this.act(run, "resume", run.status === "waiting" ? t("Start") : t("Resume"))));
        }
    }

    window.atelier.QueuePage = QueuePage;
})();
