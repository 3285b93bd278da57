// All settings: the same job as New, every option, what differs from the recipe marked.
(function () {
    "use strict";

    const { t, api, el, link, replace, errorBox, environment, PlanCard, Setting, SettingFiles } = window.atelier;
    const GROUPS = {
        network: () => t("Adapter"),
        optimizer: () => t("Optimizer"),
        schedule: () => t("Length and schedule"),
        dataset: () => t("Sizes of pictures"),
        subset: () => t("Pictures and captions"),
        loss: () => t("Noise and loss"),
        memory: () => t("Memory and speed"),
        sampling: () => t("Samples"),
        validation: () => t("Held-out pictures"),
        output: () => t("Saving"),
        model: () => t("Base model"),
    };
    const ENGINES = { native: () => t("LoRA Atelier's own trainer"), "sd-scripts": () => t("kohya's sd-scripts") };

    class ExpertPage {
        constructor(draft, go) {
            this.draft = draft;
            this.go = go;
            this.wanted = "";
            this.onlyChanged = false;
            draft.onChange(() => this.draw());
        }

        render() {
            this.files = new SettingFiles(this.draft);
            this.plan = new PlanCard(this.draft, (run) => this.go("run", run.id));
            this.plan.button.id = "atelier_train_expert";
            this.plan.sentence.id = "atelier_plan_expert";
            this.list = el("div", { class: "atelier-settings", id: "atelier_settings" }, el("p", { class: "atelier-hint", text: t("Reading the settings …") }));
            this.index = el("nav", { class: "atelier-index", "aria-label": t("Groups of settings") });
            this.about = el("p", { class: "atelier-hint" });
            this.element = el(
                "div",
                { class: "atelier-expert" },
                el("div", { class: "atelier-expert-top" }, this.search(), this.changedOnly(), this.engine(), this.files.element),
                this.checkout(),
                this.files.said,
                el("div", { class: "atelier-expert-columns" }, this.index, this.list, el("div", { class: "atelier-side" }, environment.element, this.plan.element, el("section", { class: "atelier-card" }, this.about, link(t("Change pictures, name and model"), () => this.go("new")))))
            );
            environment.poll();
            this.load();
            return this.element;
        }

        search() {
            const input = el("input", { type: "search", class: "atelier-input", id: "atelier_search", placeholder: t("Search settings"), "aria-label": t("Search settings"), value: this.wanted });
            input.addEventListener("input", () => {
                this.wanted = input.value;
                this.filter();
            });
            return input;
        }

        changedOnly() {
            const box = el("input", { type: "checkbox", class: "atelier-check", id: "atelier_only_changed", checked: this.onlyChanged });
            box.addEventListener("change", () => {
                this.onlyChanged = box.checked;
                this.filter();
            });
            return el("label", { class: "atelier-radio" }, box, el("span", { text: t("only what differs") }));
        }

        engine() {
            const { draft } = this;
            const choice = el("select", { class: "atelier-input", id: "atelier_engine", "aria-label": t("Who trains") }, ...draft.options.engines.map((name) => el("option", { value: name, text: (ENGINES[name] || (() => name))(), selected: draft.form.engine === name })));
            choice.addEventListener("change", () => draft.set("engine", choice.value));
            return choice;
        }

        // Where kohya's program is, and what it lacks; only while it is chosen.
        checkout() {
            const { draft } = this;
            this.lacks = el("div", { class: "atelier-notes", role: "status" });
            const folder = el("input", { type: "text", class: "atelier-input", id: "atelier_checkout", autocomplete: "off", spellcheck: "false", value: draft.form.checkout, placeholder: t("the folder that it was cloned into; empty: the one that install.py fetched") });
            folder.addEventListener("input", () => draft.set("checkout", folder.value.trim()));
            const place = draft.options.paths
                ? el("label", { class: "atelier-field", for: "atelier_checkout" }, el("span", { text: t("Folder of sd-scripts") }), folder)
                : el("p", { class: "atelier-hint", text: t("Its folder can't be named from here, as this page may be open to others. The one that install.py fetched is used, or the one in LORA_ATELIER_SD_SCRIPTS.") });
            this.engineCard = el("section", { class: "atelier-card", id: "atelier_engine_card", hidden: true }, place, this.lacks);
            return this.engineCard;
        }

        drawCheckout(problems) {
            const kohya = this.draft.form.engine === "sd-scripts";
            this.engineCard.hidden = !kohya;
            if (!kohya) return;
            const own = problems.filter((problem) => problem.field === "engine");
            const known = this.draft.plan && !this.draft.error;
            replace(this.lacks, ...own.map((problem) => el("p", { class: "atelier-note is-problem", text: problem.sentence })), known && !own.length && el("p", { class: "is-good", text: t("It is there, with its environment.") }));
        }

        async load() {
            try {
                const [said] = await Promise.all([api("GET", "settings"), this.files.start()]);
                this.settings = said.settings.map((field) => new Setting(field, this.draft));
                this.groups = Object.keys(GROUPS).map((name) => this.group(name)).filter((group) => group.settings.length);
                replace(this.list, ...this.groups.map((group) => group.element), (this.nothing = el("p", { class: "atelier-hint", hidden: true, text: t("No setting fits.") })));
                replace(this.index, ...this.groups.map((group) => group.link));
            } catch (error) {
                replace(this.list, errorBox(error));
                return;
            }
            this.draw();
            this.draft.replan(true);
        }

        group(name) {
            const settings = this.settings.filter((setting) => setting.field.place.startsWith(`${name}.`));
            const title = GROUPS[name]();
            const count = el("span", { class: "atelier-count-mark" });
            const element = el("section", { class: "atelier-card atelier-group", id: `atelier_group_${name}` }, el("h3", { text: title }), ...settings.map((setting) => setting.element));
            const jump = el("button", { type: "button", class: "atelier-index-link", onclick: () => element.scrollIntoView({ block: "start" }) }, el("span", { text: title }), count);
            return { name, settings, element, link: jump, count };
        }

        // ------------------------------------------------------------------------------------------- drawing

        draw() {
            if (!this.element || !this.element.isConnected) return;
            const { plan, form } = this.draft;
            const shown = new Set(["engine", ...(this.settings || []).map((setting) => setting.field.place)]);
            this.plan.draw(shown);
            this.drawCheckout((plan && plan.problems) || []);
            const model = this.draft.model();
            this.about.textContent = [plan && plan.name, plan && plan.pictures === 1 ? t("1 picture") : t("{count} pictures", { count: (plan && plan.pictures) || 0 }), model && window.atelier.modelTitle(model.title), form.trigger || (plan && plan.suggested.trigger)].filter(Boolean).join(" · ");
            if (!plan || !plan.settings || !this.settings) return;
            const problems = this.draft.problems();
            for (const setting of this.settings) {
                if (!(setting.field.place in plan.settings.values)) continue;
                setting.draw(plan.settings, problems.filter((problem) => problem.field === setting.field.place));
            }
            this.filter();
        }

        filter() {
            const { plan } = this.draft;
            if (!plan || !plan.settings || !this.groups) return;
            const { values, hidden, changed } = plan.settings;
            const gone = new Set(hidden);
            const words = this.wanted.normalize("NFKC").toLowerCase().split(/\s+/).filter(Boolean);
            const differs = (place) => changed.includes(place) || place in this.draft.changes;
            for (const group of this.groups) {
                let count = 0;
                let marks = 0;
                for (const setting of group.settings) {
                    const { place } = setting.field;
                    const fits = place in values && (!gone.has(place) || differs(place)) && (!this.onlyChanged || differs(place)) && words.every((word) => setting.words.includes(word));
                    setting.show(fits);
                    count += fits;
                    marks += differs(place);
                }
                group.element.hidden = !count;
                group.link.hidden = !count;
                group.count.textContent = marks || "";
                group.count.title = marks ? t("{count} differ from the recipe", { count: marks }) : "";
            }
            this.nothing.hidden = this.groups.some((group) => !group.element.hidden);
        }
    }

    window.atelier.ExpertPage = ExpertPage;
})();
