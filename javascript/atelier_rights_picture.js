// The rights of one picture, in its dialog: what its file says, what would be done with it, and where it differs.
(function () {
    "use strict";

    const { t, el, link, replace, errorBox, confirm } = window.atelier;
    const PLACES = { xmp: () => t("in the file (XMP)"), exif: () => t("in the file (EXIF)"), iim: () => t("in the file (IPTC)"), c2pa: () => t("in the file (content credentials)"), caption: () => t("in the caption"), inherited: () => t("known from before") };
    const USES = { allowed: () => t("allows training"), not_allowed: () => t("forbids training"), constrained: () => t("allows it on terms that a person must read"), unspecified: () => t("leaves it open"), unread: () => t("can't be read") };

    const PEOPLE = { no: () => t("nobody"), self: () => t("myself"), fictional: () => t("a made-up figure"), model: () => t("someone who agreed in writing"), unknown: () => t("someone else") };

    function peopleOf(people) {
        if (!people) return "";
        if (people.present === "no") return "no";
        const [person] = people.persons || [];
        return person && person.relation in PEOPLE ? person.relation : "";
    }

    class PictureRights {
        // ``known``: sentences that are shown beside it.
        constructor(rights, name, known) {
            Object.assign(this, { rights, name, known });
            this.inside = el("div", { class: "atelier-rights-inside" });
            this.summary = el("summary", { text: t("Rights") });
            this.element = el("details", { class: "atelier-fold", id: "atelier_picture_rights" }, this.summary, this.inside);
            this.load();
        }

        async load() {
            try {
                const said = await this.rights.picture(this.name);
                this.picture = said.picture;
                this.statement = said.statement;
                this.draw();
            } catch (error) {
                replace(this.inside, errorBox(error));
            }
        }

        draw() {
            const { picture } = this;
            const mark = this.rights.mark(this.name);
            const basis = (window.atelier.BASES[picture.basis] || (() => picture.basis))();
            const words = mark && mark.kind ? mark.text : [basis, picture.licence].filter(Boolean).join(" · ");
            this.summary.textContent = t("{name}: {value}", { name: t("Rights"), value: words });
            this.element.open = this.element.open || picture.outcome !== "include" || Boolean(picture.override);
            replace(
                this.inside,
                picture.why && !this.known.includes(picture.why) && el("p", { class: "atelier-note is-problem", text: picture.why }),
                this.found(),
                this.personal(),
                picture.override && el("p", { class: "atelier-note", text: t("Used all the same: {by} – {reason}", picture.override) }),
                ...this.exception(),
                el("p", { class: "atelier-hint atelier-rights-links" }, ...this.acts())
            );
        }

        // What the file and what lies beside it say; that they say nothing is said as well.
        found() {
            const { picture } = this;
            const rows = [
                ...picture.signals.map((signal) => `${(USES[signal.use] || (() => signal.use))()}: ${signal.raw} – ${(PLACES[signal.where] || (() => signal.where))()}`),
                picture.creator && t("Creator: {name}", { name: picture.creator }),
                picture.notice && t("Copyright: {text}", { text: picture.notice }),
                picture.source_url && t("From: {address}", { address: picture.source_url }),
            ].filter(Boolean);
            if (!rows.length) return el("p", { class: "atelier-hint", text: t("The file says nothing about its rights or where it is from.") });
            return el("ul", { class: "atelier-facts" }, ...rows.map((text) => el("li", { text })));
        }

        personal() {
            const { picture } = this;
            if (!picture.personal.length) return null;
            const rows = picture.personal.map((one) => `${one.text} – ${(PLACES[one.where] || (() => one.where))()}`);
            return el("p", { class: "atelier-hint", text: t("Personal: {what}", { what: rows.join("; ") }) });
        }

        // Where this picture differs from what holds for all.
        exception() {
            const { picture } = this;
            const { BASES, rightsField, rightsSelect, licenceInput } = window.atelier;
            const said = picture.said || {};
            const basis = rightsSelect("atelier_picture_basis", [["", t("as for all")], ...Object.entries(BASES).map(([name, words]) => [name, words()])], said.basis || "");
            const licence = licenceInput("atelier_picture_licence", said.licence);
            licence.firstChild.setAttribute("placeholder", t("as for all"));
            basis.addEventListener("change", () => this.state({ basis: basis.value || null }));
            licence.firstChild.addEventListener("change", () => this.state({ licence: licence.firstChild.value.trim() || null }));
            const people = rightsSelect("atelier_picture_people", [["", t("not said")], ...Object.entries(PEOPLE).map(([name, words]) => [name, words()])], peopleOf(said.people));
            people.addEventListener("change", () => this.state({ people: this.people(people.value) }));
            return [el("div", { class: "atelier-fields is-narrow" }, rightsField(t("Why it may be used"), basis), rightsField(t("Licence"), licence), rightsField(t("Who is to be seen"), people))];
        }

        // As the record has it; a consent in writing is the document that was attached last.
        people(chosen) {
            if (!chosen) return null;
            if (chosen === "no") return { present: "no", persons: [] };
            const [document] = [...((this.picture.said || {}).evidence || []), ...(this.statement.evidence || [])].slice(-1);
            const consent = chosen === "model" ? { consent: "written", ...(document ? { evidence: document.sha256 } : {}) } : { consent: "none" };
            return { present: "yes", persons: [{ alias: chosen, relation: chosen, ...consent }] };
        }

        acts() {
            const { rights, picture, name } = this;
            const again = () => this.load();
            const studio = rights.whose === "studio" || this.statement.profile === "studio";
            const documents = ((picture.said || {}).evidence || []).length;
            const made = [link(t("Attach a document …"), () => window.atelier.askDocument(rights, name, again))];
            if (documents) made.push(el("span", { text: documents === 1 ? t("1 document") : t("{count} documents", { count: documents }) }));
            if (picture.override) made.push(link(t("Leave it out again"), () => this.trying(() => rights.override({ names: [name], lift: true, by: rights.by() }))));
            else if (picture.rule === "reservation" && !studio) made.push(link(t("Use it all the same …"), () => window.atelier.askOverride(rights, { names: [name] }, again), { id: "atelier_override" }));
            if (!picture.withdrawn) made.push(link(t("Withdraw …"), () => this.withdraw()));
            return made.flatMap((each, at) => (at ? [" · ", each] : [each]));
        }

        withdraw() {
            const go = () => this.trying(() => this.rights.withdraw(this.name));
            confirm(t("Withdraw this picture?"), t("No training uses it from now on, under any name. This can't be taken back."), t("Withdraw"), go);
        }

        state(said) {
            return this.trying(() => this.rights.except(this.name, said));
        }

        async trying(work) {
            try {
                await work();
                await this.load();
            } catch (error) {
                this.inside.append(errorBox(error));
            }
        }
    }

    window.atelier.PictureRights = PictureRights;
})();
