// What a person is asked about rights, where something is to be decided: a reason, a document, a statement for all.
(function () {
    "use strict";

    const { t, el, replace, errorBox, dialog } = window.atelier;
    const LICENCES = ["CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "Public domain"];
    const DOCUMENTS = {
        contract: () => t("a contract"),
        mail: () => t("a mail"),
        licence_page: () => t("a page with the licence"),
        release: () => t("a release"),
        invoice: () => t("an invoice"),
        other: () => t("something else"),
    };

    function field(label, input, hint) {
        return el("label", { class: "atelier-field" }, el("span", { text: label }), input, hint && el("small", { text: hint }));
    }

    function text(id, value, attributes) {
        return el("input", { type: "text", class: "atelier-input", id, value: value || "", autocomplete: "off", maxlength: 500, ...attributes });
    }

    function select(id, choices, chosen) {
        return el("select", { class: "atelier-input", id }, ...choices.map(([value, words]) => el("option", { value, text: words, selected: value === chosen })));
    }

    // Any licence can be typed; the usual ones are offered.
    function licenceInput(id, value) {
        const list = el("datalist", { id: `${id}_list` }, ...LICENCES.map((name) => el("option", { value: name })));
        return el("span", { class: "atelier-licence" }, text(id, value, { list: `${id}_list`, placeholder: "CC BY 4.0" }), list);
    }

    // A form in a dialog that stays open, with what went wrong, until what it is for was done.
    function ask(title, content, label, act) {
        const failed = el("div");
        const form = el("form", { class: "atelier-asked" }, ...content, failed, el("div", { class: "atelier-row is-end" }, el("button", { type: "submit", class: "atelier-button is-primary", text: label })));
        form.addEventListener("submit", async (event) => {
            event.preventDefault();
            try {
                await act();
                shown.close();
            } catch (error) {
                replace(failed, errorBox(error));
            }
        });
        const shown = dialog(title, form);
        const first = form.querySelector("input, select, textarea");
        if (first) first.focus();
        return shown;
    }

    // ``asked``: {names: […]} or {rule: true} for all that carry a prohibition.
    function askOverride(rights, asked, done) {
        const by = text("atelier_override_by", rights.by(), { required: true });
        const reason = text("atelier_override_reason", "", { required: true });
        ask(
            t("Use them all the same?"),
            [
                el("p", { text: t("Their rights holder asks that they are not trained on. Who decides otherwise gives a name and a reason; both stay in the record, and their number stands in the LoRA's file.") }),
                field(t("Who decides it"), by),
                field(t("Why"), reason, t("For example: I am the rights holder.")),
            ],
            t("Use them"),
            async () => {
                rights.by(by.value.trim());
                await rights.override({ ...asked, by: by.value, reason: reason.value });
                if (done) done();
            }
        );
    }

    // A document for the whole folder, or for the one ``picture``.
    function askDocument(rights, picture, done) {
        const file = el("input", { type: "file", id: "atelier_document", class: "atelier-input", required: true });
        const kind = select("atelier_document_kind", Object.entries(DOCUMENTS).map(([name, words]) => [name, words()]), "contract");
        const until = el("input", { type: "date", id: "atelier_document_until", class: "atelier-input" });
        ask(
            picture ? t("A document for this picture") : t("A document for all pictures"),
            [
                el("p", { class: "atelier-hint", text: t("It is sealed in the data folder of this computer. The record has its hash; the LoRA's file has nothing of it.") }),
                field(t("File"), file),
                el("div", { class: "atelier-fields" }, field(t("What it is"), kind), field(t("Holds until"), until, t("empty: without an end"))),
            ],
            t("Attach"),
            async () => {
                const asked = { kind: kind.value, ...(until.value ? { valid_until: until.value } : {}), ...(picture ? { picture } : {}) };
                await rights.attach(file.files[0], asked);
                if (done) done();
            }
        );
    }

    // All that can be stated for the folder at once; nothing of it is required.
    function askStatement(rights) {
        const { statement } = rights.said;
        const [creator] = statement.creators || [];
        const basis = select("atelier_state_basis", [["", t("as answered above")], ...Object.entries(window.atelier.BASES).map(([name, words]) => [name, words()])], statement.basis || "");
        const licence = licenceInput("atelier_state_licence", statement.licence);
        const name = text("atelier_state_creator", creator && creator.name);
        const credit = el("input", { type: "checkbox", class: "atelier-check", id: "atelier_state_credit", checked: Boolean(creator && creator.credit_optin) });
        const contact = text("atelier_state_contact", statement.contact);
        const aims = select("atelier_state_aims", [["", t("not said")], ["no", t("no")], ["yes", t("yes")]], statement.targets_specific_creator || "");
        const relation = select("atelier_state_relation", [["", t("not said")], ["self", t("I am the creator")], ["licensed", t("I have a licence")], ["none", t("none")]], statement.relation_to_creator || "");
        const said = () => ({
            basis: basis.value || null,
            licence: licence.firstChild.value.trim() || null,
            creators: name.value.trim() ? [{ name: name.value.trim(), credit_optin: credit.checked }] : null,
            contact: contact.value.trim() || null,
            targets_specific_creator: aims.value || null,
            relation_to_creator: relation.value || null,
        });
        ask(
            t("What holds for all pictures"),
            [
                el("p", { class: "atelier-hint", text: t("Nothing of this is required. It is kept beside the pictures, in rights.jsonl.") }),
                el("div", { class: "atelier-fields" }, field(t("Why they may be used"), basis), field(t("Licence"), licence)),
                field(t("Whose name"), name),
                el("label", { class: "atelier-radio" }, credit, el("span", { text: t("The name may stand in the LoRA's file and in pictures that are made with it.") })),
                field(t("Contact, which stands in the LoRA's file"), contact),
                el("div", { class: "atelier-fields" }, field(t("Is it to draw like one creator?"), aims), field(t("What relation to the creator"), relation)),
            ],
            t("Keep"),
            () => rights.state(said())
        );
    }

    // Who stated what when; the record only grows.
    async function showHistory(rights) {
        const words = {
            stated: () => t("stated for all pictures"),
            excepted: () => t("stated for one picture"),
            overridden: () => t("decided to use pictures all the same"),
            "override lifted": () => t("took that back"),
            withdrawn: () => t("withdrew pictures"),
            approved: () => t("approved the files"),
            scanned: () => t("looked through the files"),
        };
        const list = el("ol", { class: "atelier-runs" });
        dialog(t("History"), el("div", { class: "atelier-asked" }, list));
        try {
            const { events } = await window.atelier.api("GET", `${rights.base}/history`);
            const when = (event) => new Date(event.at).toLocaleString(window.atelier.lang(), { dateStyle: "medium", timeStyle: "short" });
            replace(list, ...events.reverse().map((event) => el("li", {}, el("span", { text: [event.by, (words[event.what] || (() => event.what))()].join(" – ") }), el("span", { class: "atelier-hint", text: when(event) }))));
        } catch (error) {
            replace(list, errorBox(error));
        }
    }

    Object.assign(window.atelier, { showHistory, askOverride, askDocument, askStatement, licenceInput, rightsField: field, rightsSelect: select });
})();
