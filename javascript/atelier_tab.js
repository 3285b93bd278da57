// The training tab: pictures, four answers, one plan sentence, Train. It rebuilds itself from the routes.
(function () {
    "use strict";

    const { t, api, el, replace, errorBox, find, languages, storage, whenThere, Pictures, RunView, runList } = window.atelier;
    const POLL_MS = 1000;
    const PLAN_AFTER_MS = 350;
    const DRAFT = "atelier_draft";
    const GOALS = {
        character: () => [t("A character"), t("a person, an animal, a figure")],
        style: () => [t("A style"), t("a way of drawing or painting")],
        object: () => [t("An object"), t("a thing, a dress, a place")],
    };
    const WHOSE = {
        mine: () => t("They are mine"),
        permission: () => t("I have permission"),
        "open-licence": () => t("They have an open licence"),
        experiment: () => t("An experiment, not for sharing"),
    };
    const QUALITIES = { draft: () => t("Draft"), good: () => t("Good"), best: () => t("Best") };

    class Tab {
        constructor(mount) {
            this.mount = mount;
            this.form = { name: "", trigger: "", goal: "character", whose: "", quality: "good", base_model: "" };
            this.touched = {};
            this.pressed = false;
            this.pictures = new Pictures(() => this.picturesChanged());
            this.options = null;
            this.runs = [];
            this.view = null;
            this.planned = 0;
        }

        async start() {
            try {
                await window.atelier.ready();
                this.options = await api("GET", "options");
                this.form = { ...this.form, ...this.options.defaults };
                await this.takeDraft();
                await this.refreshRuns();
                // The newest comes first: a result is there again after a reload, and so is a run that ended halfway.
                const going = this.runs.find((run) => run.status === "running") || this.runs.find((run) => run.status !== "waiting");
                if (going) this.open(going.id);
            } catch (error) {
                replace(this.mount, errorBox(error));
                window.setTimeout(() => this.start(), 3000);
                return;
            }
            window.atelier.onLanguage(() => {
                this.render();
                // What the program itself said is asked for again.
                if (this.view) this.view.poll();
                if (this.pictures.upload) this.pictures.reload();
            });
            this.render();
            window.setInterval(() => this.tick(), POLL_MS);
        }

        // What was answered before this page was loaded again; pictures that are gone since are just not there.
        async takeDraft() {
            const draft = JSON.parse(storage(DRAFT, undefined, "sessionStorage") || "{}");
            for (const [field, value] of Object.entries(draft.form || {})) if (field in this.form && value) this.form[field] = value;
            if (!this.options.base_models.some((model) => model.path === this.form.base_model)) {
                this.form.base_model = this.options.defaults.base_model;
            }
            this.touched = draft.touched || {};
            if (draft.upload) await this.pictures.again(draft.upload).catch(() => undefined);
        }

        keepDraft() {
            const draft = { form: this.form, touched: this.touched, upload: this.pictures.upload };
            storage(DRAFT, JSON.stringify(draft), "sessionStorage");
        }

        picturesChanged() {
            if (this.button) this.button.disabled = this.pictures.busy > 0;
            if (!this.pictures.busy) this.replan();
        }

        async tick() {
            // Nothing is asked while nobody looks: the tab is hidden, or the browser is.
            if (document.hidden || !this.mount.isConnected || this.mount.offsetParent === null) return;
            if (this.view && !this.polling && (!this.view.run || this.view.run.status === "running" || this.view.error)) {
                this.polling = true;
                await this.view.poll();
                this.polling = false;
            }
        }

        async refreshRuns() {
            this.runs = (await api("GET", "runs")).runs;
        }

        open(id) {
            this.view = new RunView(id, () => this.ended());
            this.view.poll();
            if (this.side) this.drawSide();
        }

        async ended() {
            await this.refreshRuns();
            this.drawSide();
            if (window.atelier.refreshCards) window.atelier.refreshCards();
        }

        // ------------------------------------------------------------------------------------------ the page

        render() {
            this.side = el("div", { class: "atelier-side" });
            replace(
                this.mount,
                el(
                    "div",
                    { class: "atelier-tab" },
                    el("header", { class: "atelier-head" }, el("div", {}, el("h2", { text: t("Teach the model something new") }), el("p", { text: t("Drop pictures, answer four questions, press Train.") })), !find("atelier_header") && languages()),
                    el("div", { class: "atelier-columns" }, el("div", { class: "atelier-main" }, this.picturesCard(), this.answersCard(), this.planCard()), this.side)
                )
            );
            if (this.view) this.view.draw();
            this.drawSide();
            this.replan();
        }

        drawSide() {
            const hint = el(
                "section",
                { class: "atelier-card atelier-empty" },
                el("div", { class: "atelier-empty-mark", "aria-hidden": "true", text: "❖" }),
                el("p", { text: t("Progress, samples and the finished LoRA appear here.") })
            );
            replace(this.side, this.view ? this.view.element : hint, runList(this.runs, this.view && this.view.id, (id) => this.open(id)));
        }

        picturesCard() {
            return card(1, t("Pictures"), this.pictures.render());
        }

        answersCard() {
            return card(
                2,
                t("What it is"),
                el("div", { class: "atelier-choices", role: "radiogroup", "aria-label": t("What is to be learned?") }, ...this.options.goals.map((goal) => this.goal(goal))),
                el(
                    "div",
                    { class: "atelier-fields" },
                    this.text("name", t("Name"), t("for example momo"), t("The name in <lora:name:0.8>")),
                    this.text("trigger", t("Trigger word"), t("a rare word"), t("Call it by this word in a prompt"))
                ),
                el(
                    "fieldset",
                    { class: "atelier-whose" },
                    el("legend", { text: t("Whose pictures are these?") }),
                    ...this.options.whose.map((whose) => this.radio("whose", whose, (WHOSE[whose] || (() => whose))())),
                    this.said("whose")
                ),
                el(
                    "div",
                    { class: "atelier-fields" },
                    this.select("quality", t("Quality"), this.options.qualities.map((key) => [key, (QUALITIES[key] || (() => key))()])),
                    this.select("base_model", t("Base model"), this.options.base_models.map((model) => [model.path, model.title]))
                )
            );
        }

        planCard() {
            this.plan = el("p", { class: "atelier-plan", id: "atelier_plan", "aria-live": "polite" });
            this.notes = el("div", { class: "atelier-notes" });
            this.button = el("button", { type: "button", class: "atelier-button is-primary is-large", id: "atelier_train", onclick: () => this.train(), text: t("Train") });
            return card(3, t("Plan"), this.plan, this.notes, this.button);
        }

        // -------------------------------------------------------------------------------------------- fields

        goal(goal) {
            const [title, hint] = (GOALS[goal] || (() => [goal, ""]))();
            const input = el("input", { type: "radio", name: "atelier_goal", value: goal, checked: this.form.goal === goal });
            input.addEventListener("change", () => this.set("goal", goal));
            return el("label", { class: "atelier-choice" }, input, el("span", {}, el("strong", { text: title }), el("small", { text: hint })));
        }

        text(field, label, placeholder, hint) {
            const id = `atelier_${field}`;
            const input = el("input", { type: "text", id, class: "atelier-input", placeholder, maxlength: 200, value: this.form[field], autocomplete: "off", "aria-describedby": `${id}_hint` });
            input.addEventListener("input", () => this.set(field, input.value));
            return el("label", { class: "atelier-field", for: id }, el("span", { text: label }), input, el("small", { id: `${id}_hint`, text: hint }), this.said(field));
        }

        select(field, label, choices) {
            const input = el(
                "select",
                { id: `atelier_${field}`, class: "atelier-input" },
                ...choices.map(([value, title]) => el("option", { value, text: title, selected: this.form[field] === value }))
            );
            input.addEventListener("change", () => this.set(field, input.value));
            return el("label", { class: "atelier-field" }, el("span", { text: label }), input, this.said(field));
        }

        radio(field, value, title) {
            const input = el("input", { type: "radio", name: `atelier_${field}`, value, checked: this.form[field] === value });
            input.addEventListener("change", () => this.set(field, value));
            return el("label", { class: "atelier-radio" }, input, el("span", { text: title }));
        }

        said(field) {
            return el("span", { class: "atelier-said", "data-field": field });
        }

        set(field, value) {
            this.form[field] = value;
            this.touched[field] = true;
            if (!this.touched.trigger) this.suggestTrigger();
            this.replan();
        }

        suggestTrigger() {
            const name = this.form.name.trim().replace(/[_\s]+/g, " ").toLowerCase();
            this.form.trigger = name && this.form.goal === "style" ? `${name} style` : name;
            const input = find("atelier_trigger");
            if (input) input.value = this.form.trigger;
        }

        // ------------------------------------------------------------------------------------ plan and training

        asked() {
            return { ...this.form, upload: this.pictures.upload };
        }

        replan() {
            window.clearTimeout(this.planTimer);
            this.keepDraft();
            this.planTimer = window.setTimeout(() => this.askPlan(), PLAN_AFTER_MS);
        }

        async askPlan() {
            const number = ++this.planned;
            try {
                const plan = await api("POST", "plan", { form: this.asked() });
                if (number === this.planned) this.showPlan(plan);
            } catch (error) {
                if (number === this.planned) replace(this.notes, errorBox(error));
            }
        }

        // Before the first press of Train only what was touched is complained about; after it, everything.
        showPlan(plan) {
            this.plan.textContent = plan.sentence || t("Add pictures to see what it will take.");
            this.mount.querySelectorAll(".atelier-said").forEach((place) => place.replaceChildren());
            const rest = [];
            for (const problem of plan.problems) {
                const touched = this.touched[problem.field] || (problem.field === "pictures" && this.pictures.upload);
                if (!this.pressed && problem.blocking && !touched) continue;
                const made = el("span", { class: problem.blocking ? "is-problem" : "is-hint", text: problem.sentence });
                const place = this.mount.querySelector(`.atelier-said[data-field="${problem.field}"]`);
                if (place) place.append(made);
                else rest.push(el("p", { class: problem.blocking ? "atelier-note is-problem" : "atelier-note", text: problem.sentence }));
            }
            replace(this.notes, ...rest);
        }

        async train() {
            this.button.disabled = true;
            this.pressed = true;
            try {
                const plan = await api("POST", "plan", { form: this.asked() });
                this.planned += 1;
                this.showPlan(plan);
                if (!plan.problems.some((problem) => problem.blocking)) {
                    const { run } = await api("POST", "runs", { form: this.asked() });
                    this.pressed = false;
                    await this.refreshRuns();
                    this.open(run.id);
                    this.side.scrollIntoView({ behavior: "smooth", block: "nearest" });
                }
            } catch (error) {
                replace(this.notes, errorBox(error));
            }
            this.button.disabled = false;
        }
    }

    function card(number, title, ...children) {
        return el("section", { class: "atelier-card" }, el("h3", {}, el("span", { class: "atelier-number", "aria-hidden": "true", text: number }), title), ...children);
    }

    whenThere("atelier_root", (mount) => {
        const tab = new Tab(mount);
        window.atelier.tab = tab;
        tab.start();
    });
})();
