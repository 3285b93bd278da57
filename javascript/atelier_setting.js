// One setting of the expert's page: its control, its help, the mark that it was changed, what is wrong with it.
(function () {
    "use strict";

    const { t, el, replace } = window.atelier;

    class Setting {
        constructor(field, draft) {
            this.field = field;
            this.draft = draft;
            this.id = `atelier_set_${field.place.replace(".", "_")}`;
            this.input = this.control();
            this.said = el("span", { class: "atelier-said", id: `${this.id}_said` });
            this.undo = el("button", { type: "button", class: "atelier-undo", onclick: () => this.back() });
            const label = el("label", { for: this.id, class: "atelier-setting-label" }, el("strong", { text: field.label }), el("code", { text: field.key }));
            this.element = el("div", { class: "atelier-setting", "data-place": field.place }, label, el("div", { class: "atelier-setting-control" }, this.input, this.undo), el("small", { id: `${this.id}_help`, text: field.help }), this.said);
            this.words = [field.label, field.help, field.key, field.place, field.english].join(" ").normalize("NFKC").toLowerCase();
        }

        control() {
            const { field, id } = this;
            const about = { id, "aria-describedby": `${id}_help ${id}_said` };
            if (field.kind === "bool") {
                const box = el("input", { type: "checkbox", class: "atelier-check", ...about });
                box.addEventListener("change", () => this.draft.change(field.place, box.checked));
                return box;
            }
            if (field.choices.length) {
                const choice = el("select", { class: "atelier-input", ...about }, ...field.choices.map((value) => el("option", { value: String(value), text: String(value) || t("(chosen by itself)") })));
                choice.addEventListener("change", () => this.draft.change(field.place, field.choices.find((value) => String(value) === choice.value)));
                return choice;
            }
            const lines = field.kind === "tuple[str, ...]";
            const input = lines ? el("textarea", { class: "atelier-input", rows: 2, ...about }) : el("input", { type: "text", class: "atelier-input", autocomplete: "off", inputmode: /int|float/.test(field.kind) ? "decimal" : undefined, ...about });
            if (field.suggestions && field.suggestions.length) {
                input.setAttribute("list", `${id}_list`);
                this.list = el("datalist", { id: `${id}_list` }, ...field.suggestions.map((value) => el("option", { value })));
                input.addEventListener("focus", () => this.element.append(this.list), { once: true });
            }
            input.addEventListener("input", () => {
                this.typed = this.read(input.value);
                this.draft.change(field.place, this.typed);
            });
            return input;
        }

        // Texts are sent as they are typed: what can't be read is said by the program, beside the field.
        read(text) {
            if (this.field.kind === "tuple[str, ...]") return text.split("\n").map((line) => line.trim()).filter(Boolean);
            return text;
        }

        back() {
            this.draft.undo(this.field.place);
            this.typed = undefined;
            this.write(this.recipe);
            this.input.focus();
        }

        write(value) {
            if (this.field.kind === "bool") this.input.checked = value === true;
            // What is being typed is not taken out of a person's hands; what comes from elsewhere (a preset, undo) is shown.
            else if (document.activeElement !== this.input || this.draft.changes[this.field.place] !== this.typed) this.input.value = written(value);
        }

        draw(settings, problems) {
            const { place } = this.field;
            this.recipe = settings.recipe[place];
            const changed = settings.changed.includes(place) || place in this.draft.changes;
            // What was typed and can't be read stays as it was typed.
            const typed = this.draft.changes[place];
            this.write(problems.length && typed !== undefined ? typed : settings.values[place]);
            this.element.classList.toggle("is-changed", changed);
            this.undo.hidden = !changed;
            const recipe = this.field.kind === "bool" ? (settings.recipe[place] ? t("on") : t("off")) : written(settings.recipe[place]) || t("empty");
            this.undo.textContent = `↺ ${recipe}`;
            this.undo.setAttribute("aria-label", t("Back to the recipe's {value}", { value: recipe }));
            this.undo.title = t("Back to the recipe's {value}", { value: recipe });
            this.input.setAttribute("aria-invalid", String(problems.some((problem) => problem.blocking)));
            replace(this.said, ...problems.map((problem) => el("span", { class: problem.blocking ? "is-problem" : "is-hint", text: problem.sentence })));
        }

        show(visible) {
            this.element.hidden = !visible;
        }
    }

    function written(value) {
        if (value === null || value === undefined) return "";
        if (Array.isArray(value)) return value.every((each) => typeof each === "string") ? value.join("\n") : value.join(", ");
        return String(value);
    }

    window.atelier.Setting = Setting;
})();
