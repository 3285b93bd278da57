// The job that is being prepared: what was answered and changed, and what the program says to it. All pages share it.
(function () {
    "use strict";

    const { t, api, storage, Pictures } = window.atelier;
    const PLAN_AFTER_MS = 350;
    const KEPT = "atelier_draft";

    class Draft {
        constructor() {
            this.form = { name: "", trigger: "", goal: "character", whose: "", quality: "good", base_model: "", engine: "native", checkout: "" };
            this.changes = {};
            this.taken = null;
            this.touched = {};
            this.pressed = false;
            this.options = null;
            this.plan = null;
            this.error = null;
            this.wantsSettings = false;
            this.listeners = [];
            this.planned = 0;
            this.pictures = new Pictures(() => this.picturesChanged());
            this.rights = new window.atelier.Rights(this);
            this.pictures.rights = this.rights;
        }

        // Called back whenever the plan, or whether there can be one, has changed.
        onChange(listener) {
            this.listeners.push(listener);
        }

        tell() {
            this.listeners.forEach((listener) => listener());
        }

        async start(options) {
            this.options = options;
            this.form = { ...this.form, ...options.defaults };
            await this.takeKept();
            this.followModel();
        }

        // What was answered before this page was loaded again; pictures that are gone since are just not there.
        async takeKept() {
            let kept = {};
            try {
                kept = JSON.parse(storage(KEPT, undefined, "sessionStorage") || "{}");
            } catch (error) {
                // A half-written draft is none.
            }
            for (const [field, value] of Object.entries(kept.form || {})) if (field in this.form && value) this.form[field] = value;
            if (!this.model()) this.form.base_model = this.options.defaults.base_model;
            this.touched = kept.touched || {};
            this.changes = kept.changes || {};
            this.pictures.side = (this.model() || {}).side || 0;
            if (kept.upload) await this.pictures.again(kept.upload);
            this.rights.follow();
        }

        keep() {
            const { form, touched, changes } = this;
            storage(KEPT, JSON.stringify({ form, touched, changes, upload: this.pictures.upload }), "sessionStorage");
        }

        // After its training was begun the next one starts afresh, with the same model and engine.
        clear() {
            const { base_model, engine, checkout } = this.form;
            this.form = { ...this.form, ...this.options.defaults, base_model, engine, checkout };
            this.touched = {};
            this.changes = {};
            this.taken = null;
            this.pressed = false;
            this.plan = null;
            this.pictures.clear();
            this.rights.follow();
            this.keep();
        }

        model() {
            return this.options.base_models.find((model) => model.path === this.form.base_model);
        }

        followModel() {
            const { side } = this.model() || { side: 0 };
            if (side === this.pictures.side) return;
            this.pictures.side = side;
            if (this.pictures.upload) this.pictures.reload();
        }

        set(field, value) {
            this.form[field] = value;
            this.touched[field] = true;
            if (field === "base_model") this.followModel();
            if (field === "whose") this.rights.follow();
            this.replan();
        }

        change(place, value) {
            this.taken = null;
            this.changes = { ...this.changes, [place]: value };
            this.replan();
        }

        // Several settings at once, so that it fits; undone together, as long as nothing else was changed of them.
        take(changes) {
            this.taken = { before: this.changes, changes };
            this.changes = { ...this.changes, ...changes };
            this.replan(true);
        }

        takeBack() {
            this.changes = this.taken.before;
            this.taken = null;
            this.replan(true);
        }

        undo(place) {
            const { [place]: gone, ...rest } = this.changes;
            this.changes = rest;
            this.replan();
        }

        asked() {
            return { ...this.form, upload: this.pictures.upload, changes: this.changes };
        }

        picturesChanged() {
            this.tell();
            if (this.pictures.busy) return;
            this.rights.follow();
            this.replan();
        }

        replan(at_once) {
            window.clearTimeout(this.timer);
            this.keep();
            this.timer = window.setTimeout(() => this.askPlan(), at_once ? 0 : PLAN_AFTER_MS);
        }

        async askPlan() {
            if (!this.options) return null;
            const number = ++this.planned;
            try {
                const plan = await api("POST", "plan", { form: this.asked(), settings: this.wantsSettings });
                if (number !== this.planned) return null;
                this.plan = plan;
                this.error = null;
            } catch (error) {
                if (number !== this.planned) return null;
                this.error = error;
            }
            this.tell();
            return this.plan;
        }

        // What to say of each field. Before the first press of Train only what was touched is complained about.
        problems() {
            return ((this.plan && this.plan.problems) || []).filter((problem) => {
                const touched = this.touched[problem.field] || problem.field in this.changes || (problem.field === "pictures" && this.pictures.upload);
                return this.pressed || !problem.blocking || touched || problem.field.includes(".");
            });
        }

        // Nothing would be left to learn from: said before a training is made that ends at once.
        refused() {
            const group = this.rights.stands();
            return group && { what: t("None of the pictures would be used."), why: group.why, todo: "" };
        }

        // The run that was made, or null if something has to be put right first.
        async train() {
            this.pressed = true;
            window.clearTimeout(this.timer);
            const plan = await this.askPlan();
            if (!plan || this.error || plan.problems.some((problem) => problem.blocking)) return null;
            const said = this.refused();
            if (said) throw Object.assign(new Error(said.what), { said });
            await api("DELETE", "measure").catch(() => null); // the training needs the machine
            const { run } = await api("POST", "runs", { form: this.asked() });
            this.clear();
            return run;
        }
    }

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
        studio: () => t("A studio's, with documents"),
    };
    const QUALITIES = {
        draft: () => [t("Draft"), t("quick, to see whether it works")],
        good: () => [t("Good"), t("the usual choice")],
        best: () => [t("Best"), t("nearly twice as long")],
    };

    Object.assign(window.atelier, { Draft, GOALS, WHOSE, QUALITIES });
})();
