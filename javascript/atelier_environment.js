// The trainer's environment: said to be missing, made by a button, looked at closely.
(function () {
    "use strict";

    const { t, api, el, button, link, replace, errorBox, bytes } = window.atelier;
    const POLL_MS = 1000;
    const STAGES = {
        starting: () => t("Looking for a Python …"),
        environment: () => t("Making the environment …"),
        torch: () => t("Fetching PyTorch"),
        packages: () => t("Fetching the packages"),
        checking: () => t("Trying it out …"),
    };
    const ORDER = Object.keys(STAGES);

    // One for all pages: it stands on the page that is shown, and nowhere where all is well.
    class Environment {
        constructor() {
            this.state = null;
            this.error = null;
            this.element = el("section", { class: "atelier-card", id: "atelier_environment", hidden: true });
            this.findings = el("div", { class: "atelier-notes" });
            window.atelier.onLanguage(() => this.state && this.poll());
        }

        // Asked when a page is shown, and every second while it is being made.
        async poll() {
            window.clearTimeout(this.timer);
            try {
                this.take(await api("GET", "environment"));
                this.error = null;
            } catch (error) {
                if (this.state && this.state.state === "running") this.timer = window.setTimeout(() => this.poll(), 3 * POLL_MS);
            }
        }

        take(state) {
            const before = this.state;
            this.state = state;
            this.done = this.done || (before && before.state !== "ready" && state.state === "ready");
            this.draw();
            if (state.state === "running") this.timer = window.setTimeout(() => this.poll(), POLL_MS);
        }

        async act(verb) {
            try {
                this.error = null;
                this.take(await api("POST", `environment/${verb}`));
            } catch (error) {
                this.error = error;
                this.draw();
            }
        }

        draw() {
            const { state } = this;
            this.element.hidden = !state || (state.state === "ready" && !this.done);
            if (this.element.hidden) return;
            const running = state.state === "running";
            if (running && this.bar && this.bar.isConnected) {
                this.show(state);
                return;
            }
            const go = { missing: t("Set it up"), failed: t("Try again"), stopped: t("Go on"), died: t("Go on") }[state.state];
            replace(
                this.element,
                el("h3", { text: t("The trainer's environment") }),
                state.state === "ready" && el("p", { class: "is-good", role: "status", text: t("It is complete. Trainings can begin.") }),
                running && this.progress(),
                !running && state.said && el("p", { text: state.said }),
                state.error && errorBox({ said: state.error }),
                state.log && el("details", { class: "atelier-more-of-it" }, el("summary", { text: t("Its last words") }), el("pre", { class: "atelier-log", tabindex: 0, text: state.log })),
                this.error && errorBox(this.error),
                go && !state.may && el("p", { class: "atelier-note", text: t("This webui can be reached from other machines, so it can't be done from here. Start it without that once, or type  python install.py trainer  in the extension's folder.") }),
                go && state.may && el("div", { class: "atelier-row is-wrapping" }, button(go, () => this.act("make"), { kind: "is-primary", id: "atelier_make_environment" }), state.state !== "missing" && link(t("What is wrong?"), () => this.examine(this.findings))),
                this.findings
            );
            if (running) this.show(state);
        }

        progress() {
            this.label = el("p", { id: "atelier_environment_progress" });
            this.bar = el("progress", { class: "atelier-progress", max: 1 });
            this.spoken = el("p", { class: "atelier-spoken", "aria-live": "polite" });
            const stop = this.state.may && button(t("Stop"), () => this.act("stop"), { id: "atelier_stop_environment", title: t("Packages that arrived whole are kept.") });
            return el("div", {}, this.label, this.bar, el("p", { class: "atelier-hint", text: t("You can leave this page; it goes on.") }), el("div", { class: "atelier-row" }, stop), this.spoken);
        }

        show(state) {
            const share = state.total ? Math.floor((100 * state.done) / state.total) : null;
            const amount = share === null ? "" : t("{share} % of {size}", { share, size: bytes(state.total) });
            const at = t("step {at} of {of}", { at: ORDER.indexOf(state.stage) + 1, of: ORDER.length });
            const stage = state.unpacking ? t("Unpacking; this takes a few minutes …") : (STAGES[state.stage] || STAGES.starting)();
            this.label.textContent = [`${stage} (${at})`, state.item, amount].filter(Boolean).join(" · ");
            if (share === null) this.bar.removeAttribute("value");
            else this.bar.value = share / 100;
            this.bar.setAttribute("aria-label", this.label.textContent);
            if (this.saidStage !== stage) this.spoken.textContent = stage;
            this.saidStage = stage;
        }

        // What there is on this machine, line by line, into ``place``.
        async examine(place) {
            replace(place, el("p", { class: "atelier-hint", role: "status", text: t("Looking; this takes some seconds …") }));
            try {
                const { findings } = await api("POST", "environment/examine");
                const marks = { ok: "✓", warning: "!", problem: "✗" };
                const words = { ok: t("in order"), warning: t("worth a look"), problem: t("wrong") };
                replace(
                    place,
                    el(
                        "ul",
                        { class: "atelier-facts", id: "atelier_findings" },
                        ...findings.map((each) => el("li", { class: each.level === "problem" ? "is-problem" : "" }, el("span", { "aria-hidden": "true", text: `${marks[each.level]} ` }), el("span", { class: "atelier-spoken", text: `${words[each.level]}: ` }), each.said, each.mend && el("small", { text: ` ${each.mend}` })))
                    )
                );
            } catch (error) {
                replace(place, errorBox(error));
            }
        }

        // For pages where nothing is wrong: what there is, once somebody opens it.
        machine() {
            const place = el("div", { class: "atelier-notes" });
            const open = el("details", { class: "atelier-card atelier-more-of-it", id: "atelier_machine" }, el("summary", { text: t("This machine and the trainer's environment") }), place);
            open.addEventListener("toggle", () => open.open && this.examine(place));
            return open;
        }
    }

    window.atelier.environment = new Environment();
})();
