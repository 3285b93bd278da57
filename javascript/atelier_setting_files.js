// Settings from files and to files: kohya's TOML, a GUI's JSON, a LoRA's own words, presets.
(function () {
    "use strict";

    const { t, api, el, button, link, replace, errorBox, dialog } = window.atelier;
    const ACCEPT = ".toml,.json,.safetensors,.txt";
    const LARGEST_HEADER = 4000000;

    class SettingFiles {
        constructor(draft) {
            this.draft = draft;
            this.input = el("input", { type: "file", accept: ACCEPT, id: "atelier_import", hidden: true });
            this.input.addEventListener("change", async () => {
                const [file] = this.input.files;
                this.input.value = "";
                if (file) await this.take(file);
            });
            this.choice = el("select", { class: "atelier-input", id: "atelier_preset", "aria-label": t("Presets") });
            this.choice.addEventListener("change", () => this.choice.value && this.readPreset(this.choice.value));
            this.said = el("div", { class: "atelier-notes", role: "status", id: "atelier_import_said" });
            this.element = el(
                "div",
                { class: "atelier-bar" },
                this.choice,
                button(t("Keep as preset"), () => this.keep(), { id: "atelier_keep_preset" }),
                button(t("Import"), () => this.input.click(), { title: t("kohya's TOML, a preset of kohya_ss, a LoRA, or one of our presets") }),
                button(t("As text"), () => this.edit(), { id: "atelier_as_text" }),
                this.input
            );
        }

        async start() {
            const said = await api("GET", "presets").catch(() => ({ presets: [] }));
            this.list(said.presets);
        }

        list(presets) {
            this.presets = presets;
            replace(this.choice, el("option", { value: "", text: presets.length ? t("Presets") : t("No presets yet") }), ...presets.map((name) => el("option", { value: name, text: name })));
        }

        // -------------------------------------------------------------------------------------------- reading

        async take(file) {
            await this.trying(async () => {
                const asked = /\.safetensors$/i.test(file.name) ? { header: await header(file) } : { text: await file.text() };
                return api("POST", "settings/read", { form: this.draft.asked(), ...asked });
            });
        }

        async readPreset(name) {
            await this.trying(() => api("POST", `presets/${encodeURIComponent(name)}/read`, { form: this.draft.asked() }));
            this.choice.value = "";
            this.said.append(
                el(
                    "p",
                    { class: "atelier-hint" },
                    el("strong", { text: name }),
                    " · ",
                    link(t("Save as a file"), () => this.download(name)),
                    " · ",
                    link(t("Remove"), async () => {
                        this.list((await api("DELETE", `presets/${encodeURIComponent(name)}`)).presets);
                        replace(this.said);
                    })
                )
            );
        }

        async trying(read) {
            try {
                this.apply(await read());
            } catch (error) {
                replace(this.said, errorBox(error));
            }
        }

        apply(read) {
            const before = this.draft.changes;
            this.draft.changes = read.changes;
            if (read.trigger && !this.draft.form.trigger) this.draft.form.trigger = read.trigger;
            const count = Object.keys(read.changes).length;
            const undo = () => {
                this.draft.changes = before;
                replace(this.said);
                this.draft.replan(true);
            };
            replace(
                this.said,
                el("p", {}, count === 1 ? t("Taken over: 1 setting differs from the recipe.") : t("Taken over: {count} settings differ from the recipe.", { count }), " ", link(t("Undo"), undo)),
                ...read.problems.map((each) => el("p", { class: "atelier-note is-problem", text: named(each) })),
                ...read.notes.map((each) => el("p", { class: "atelier-note", text: named(each) }))
            );
            this.draft.replan(true);
        }

        // -------------------------------------------------------------------------------------------- writing

        keep() {
            const name = el("input", { type: "text", class: "atelier-input", maxlength: 64, id: "atelier_preset_name", "aria-label": t("Name") });
            const failed = el("div");
            const go = async () => {
                try {
                    const said = await api("PUT", `presets/${encodeURIComponent(name.value.trim() || " ")}`, { form: this.draft.asked() });
                    this.list(said.presets);
                    replace(this.said, el("p", {}, t("Kept as “{name}”.", said), " ", link(t("Save as a file"), () => this.download(said.name))));
                    shown.close();
                } catch (error) {
                    replace(failed, errorBox(error));
                }
            };
            const form = el("form", { class: "atelier-asked" }, el("p", { text: t("What differs from the recipe is kept under a name, without names of pictures or folders.") }), name, failed, el("div", { class: "atelier-row is-end" }, el("button", { type: "submit", class: "atelier-button is-primary", text: t("Keep") })));
            form.addEventListener("submit", (event) => {
                event.preventDefault();
                go();
            });
            const shown = dialog(t("Keep as preset"), form);
            name.focus();
        }

        async download(name) {
            const answer = await fetch(`${window.atelier.PREFIX}presets/${encodeURIComponent(name)}`, { credentials: "same-origin" });
            save(`${name}.toml`, await answer.text());
        }

        // The whole job as text, to be read and changed.
        async edit() {
            const text = el("textarea", { class: "atelier-input atelier-code", spellcheck: "false", id: "atelier_text", "aria-label": t("Settings as TOML") });
            const failed = el("div");
            try {
                text.value = (await api("POST", "settings/text", { form: this.draft.asked() })).text;
            } catch (error) {
                return replace(this.said, errorBox(error));
            }
            const take = async () => {
                try {
                    const read = await api("POST", "settings/read", { form: this.draft.asked(), text: text.value });
                    if (read.problems.length) return replace(failed, ...read.problems.map((each) => el("p", { class: "atelier-note is-problem", text: named(each) })));
                    this.apply(read);
                    shown.close();
                } catch (error) {
                    replace(failed, errorBox(error));
                }
                return null;
            };
            const shown = dialog(
                t("Settings as TOML"),
                el(
                    "div",
                    { class: "atelier-asked" },
                    el("p", { class: "atelier-hint", text: t("The keys are those of kohya's sd-scripts; its files can be pasted here. Names, folders and pictures stay those of this job.") }),
                    text,
                    failed,
                    el("div", { class: "atelier-row is-end" }, button(t("Save as a file"), () => save(`${this.draft.plan.name || "lora"}.toml`, text.value)), button(t("Take over"), take, { kind: "is-primary", id: "atelier_take_text" }))
                ),
                { wide: true }
            );
            return null;
        }
    }

    function named(problem) {
        return problem.field ? `${problem.field}: ${problem.sentence}` : problem.sentence;
    }

    function save(name, text) {
        const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
        const anchor = el("a", { href: url, download: name });
        anchor.click();
        window.setTimeout(() => URL.revokeObjectURL(url), 1000);
    }

    // A LoRA's header: its length in eight bytes, then JSON. The weights are not read.
    async function header(file) {
        const length = Number(new DataView(await file.slice(0, 8).arrayBuffer()).getBigUint64(0, true));
        if (!(length > 1 && length < LARGEST_HEADER)) throw new Error(t("“{name}” is no LoRA that can be read.", { name: file.name }));
        return JSON.parse(await file.slice(8, 8 + length).text());
    }

    window.atelier.SettingFiles = SettingFiles;
})();
