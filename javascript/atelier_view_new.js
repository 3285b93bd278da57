// New: pictures, what they are, the plan, Train. Only the pictures are needed.
(function () {
    "use strict";

    const { t, api, el, button, link, replace, errorBox, environment, PlanCard, card, GOALS, WHOSE, QUALITIES } = window.atelier;
    const PLACES = new Set(["name", "trigger", "whose", "goal", "quality", "base_model", "pictures"]);
    const PREDICTIONS = { epsilon: () => t("predicts noise"), v_prediction: () => t("predicts velocity (v-prediction)") };

    class NewPage {
        constructor(draft, go) {
            this.draft = draft;
            this.go = go;
            draft.onChange(() => this.draw());
        }

        render() {
            const { draft } = this;
            this.plan = new PlanCard(draft, (run) => this.go("run", run.id), 3);
            this.modelHint = el("small", { id: "atelier_base_model_hint" });
            this.element = el(
                "div",
                { class: "atelier-columns" },
                el("div", { class: "atelier-main" }, card(1, t("Pictures"), draft.pictures.render(draft.options.paths), this.said("pictures"))),
                el("div", { class: "atelier-side" }, environment.element, this.answers(), this.plan.element, el("p", { class: "atelier-hint is-centred" }, t("Everything else can be set too:"), " ", link(t("all settings"), () => this.go("expert"))))
            );
            environment.poll();
            this.draw();
            return this.element;
        }

        answers() {
            const { options } = this.draft;
            return card(
                2,
                t("What it is"),
                el("div", { class: "atelier-choices", role: "radiogroup", "aria-label": t("What is to be learned?") }, ...options.goals.map((goal) => this.goal(goal))),
                el("div", { class: "atelier-fields" }, this.text("name", t("Name")), this.text("trigger", t("Trigger word"))),
                el(
                    "div",
                    { class: "atelier-fields" },
                    this.select("whose", t("Whose pictures are these?"), [["", t("I don't say")], ...options.whose.map((whose) => [whose, (WHOSE[whose] || (() => whose))()])], el("small", { text: t("Kept in the file. Unsaid, it counts as an experiment.") })),
                    this.select("quality", t("Quality"), options.qualities.map((key) => [key, (QUALITIES[key] || (() => [key]))().filter(Boolean).join(" – ")]))
                ),
                options.base_models.length ? this.select("base_model", t("Base model"), options.base_models.map((model) => [model.path, window.atelier.modelTitle(model.title)]), this.modelHint) : this.noModel()
            );
        }

        // Nothing can be trained without one; it may be put there while this page is open.
        noModel() {
            const failed = el("span");
            const look = async () => {
                try {
                    const { draft } = this;
                    draft.options = await api("GET", "options");
                    draft.form.base_model = draft.options.defaults.base_model;
                    draft.followModel();
                    this.go("new"); // which asks for the plan again
                } catch (error) {
                    replace(failed, errorBox(error));
                }
            };
            return el(
                "div",
                { class: "atelier-error", role: "status", id: "atelier_no_model" },
                el("strong", { text: t("There is no base model that can be trained.") }),
                " ",
                t("Put a .safetensors checkpoint of SD 1.x, 2.x or XL where this program keeps its models."),
                " ",
                button(t("Look again"), look, { kind: "is-small", id: "atelier_look_again" }),
                failed
            );
        }

        // -------------------------------------------------------------------------------------------- fields

        goal(goal) {
            const [title, hint] = (GOALS[goal] || (() => [goal, ""]))();
            const input = el("input", { type: "radio", name: "atelier_goal", value: goal, checked: this.draft.form.goal === goal });
            input.addEventListener("change", () => this.draft.set("goal", goal));
            return el("label", { class: "atelier-choice" }, input, el("span", {}, el("strong", { text: title }), el("small", { text: hint })));
        }

        text(field, label) {
            const id = `atelier_${field}`;
            const input = el("input", { type: "text", id, class: "atelier-input", maxlength: 200, value: this.draft.form[field], autocomplete: "off", "aria-describedby": `${id}_said` });
            input.addEventListener("input", () => this.draft.set(field, input.value));
            return el("label", { class: "atelier-field", for: id }, el("span", { text: label }), input, this.said(field));
        }

        select(field, label, choices, hint) {
            const input = el(
                "select",
                { id: `atelier_${field}`, class: "atelier-input", "aria-describedby": `atelier_${field}_said` },
                ...choices.map(([value, title]) => el("option", { value, text: title, selected: this.draft.form[field] === value }))
            );
            input.addEventListener("change", () => this.draft.set(field, input.value));
            return el("label", { class: "atelier-field" }, el("span", { text: label }), input, hint, this.said(field));
        }

        said(field) {
            return el("span", { class: "atelier-said", id: `atelier_${field}_said`, "data-field": field });
        }

        // ------------------------------------------------------------------------------------------- drawing

        draw() {
            if (!this.element) return;
            const { draft } = this;
            this.plan.draw(PLACES);
            this.hint();
            const problems = draft.problems();
            this.element.querySelectorAll(".atelier-said").forEach((place) => {
                const { field } = place.dataset;
                const own = problems.filter((problem) => problem.field === field);
                replace(place, ...own.map((problem) => this.sentence(field, problem)));
                const input = this.element.querySelector(`#atelier_${field}`);
                if (input) input.setAttribute("aria-invalid", String(own.some((problem) => problem.blocking)));
            });
        }

        // What is taken where nothing is typed, and what the chosen model is.
        hint() {
            const { draft } = this;
            const known = draft.plan && (draft.pictures.upload || draft.form.name || draft.form.trigger);
            const suggested = known ? draft.plan.suggested : {};
            for (const field of ["name", "trigger"]) {
                const input = this.element.querySelector(`#atelier_${field}`);
                if (input) input.placeholder = suggested[field] || "";
                if (input && document.activeElement !== input && input.value !== draft.form[field]) input.value = draft.form[field];
            }
            const model = draft.model();
            this.modelHint.textContent = model ? [model.family_name, t("{side} pixels", model), (PREDICTIONS[model.prediction] || (() => ""))()].filter(Boolean).join(" · ") : "";
        }

        sentence(field, problem) {
            const take = () => {
                this.element.querySelector(`#atelier_${field}`).value = problem.suggestion;
                this.draft.set(field, problem.suggestion);
            };
            return el(
                "span",
                { class: problem.blocking ? "is-problem" : "is-hint" },
                problem.sentence,
                field === "trigger" && problem.suggestion && " ",
                field === "trigger" && problem.suggestion && link(t("Take “{word}”", { word: problem.suggestion }), take)
            );
        }
    }

    window.atelier.NewPage = NewPage;
})();
