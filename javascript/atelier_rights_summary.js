// One summary of the pictures' rights before a training: how many on what basis, what is left out and what helps.
(function () {
    "use strict";

    const { t, el, button, link, replace, errorBox, permitsSaid } = window.atelier;
    const FOUND = { gps: () => t("a place"), serial: () => t("serial numbers"), owner: () => t("the owner's name"), person: () => t("names of persons"), place: () => t("a place"), address: () => t("an address"), email: () => t("an address"), phone: () => t("a phone number") };
    class RightsSummary {
        constructor(rights) {
            this.rights = rights;
            this.line = el("p", { class: "atelier-rights-line", "aria-live": "polite" });
            this.licence = el("div", { hidden: true });
            this.groups = el("ul", { class: "atelier-rights-groups" });
            this.personal = el("p", { class: "atelier-note is-quiet", hidden: true });
            this.failed = el("div", { class: "atelier-notes" });
            this.inside = el("div", { class: "atelier-rights-inside" });
            this.more = el("details", { class: "atelier-fold" }, el("summary", { text: t("Rights in detail") }), this.inside);
            this.element = el("div", { class: "atelier-rights", hidden: true }, this.line, this.groups, this.licence, this.personal, this.failed, this.more);
        }

        draw() {
            const { said, error, whose } = this.rights;
            // Drawn anew only where something changed: what is being typed or pressed here stays as it is.
            const drawn = [said, error, whose, this.rights.draft.pictures.upload];
            if (this.drawn && drawn.every((each, at) => each === this.drawn[at])) return;
            this.drawn = drawn;
            this.element.hidden = !this.rights.draft.pictures.upload;
            replace(this.failed, error && errorBox(error));
            this.more.hidden = !said;
            if (!said) {
                replace(this.line, !error && t("Looking at what the files say …"));
                replace(this.groups);
                this.personal.hidden = true;
                return;
            }
            replace(this.line, el("span", { class: "atelier-rights-mark", "aria-hidden": "true", text: this.isClear() ? "✓" : "◇" }), el("span", { text: this.sentence() }));
            replace(this.groups, ...said.groups.map((group) => this.group(group)));
            this.drawLicence();
            this.drawPersonal();
            replace(this.inside, ...this.details());
        }

        isClear() {
            return !this.rights.said.unread && !this.rights.said.groups.length;
        }

        sentence() {
            const { said } = this.rights;
            if (said.unread) return t("Looking at what the files say … {count} left", { count: said.unread });
            const { included } = said.counts;
            if (!included) return t("None of the pictures would be used.");
            if (said.basis.none === included) return included === 1 ? t("1 picture is used. Whose it is is not said: the LoRA is marked as not for sharing.") : t("{count} pictures are used. Whose they are is not said: the LoRA is marked as not for sharing.", { count: included });
            const basis = Object.entries(said.basis).map(([name, count]) => this.counted(name, count, included));
            const licences = Object.entries(said.licences).map(([name, count]) => (count === included ? name : t("{name}: {value}", { name, value: count })));
            const what = [...basis, ...licences].join(t(", "));
            return included === 1 ? t("1 picture is used: {what}.", { what }) : t("{count} pictures are used: {what}.", { count: included, what });
        }

        counted(name, count, all) {
            const words = (window.atelier.BASES[name] || (() => name))();
            return count === all ? words : t("{name}: {value}", { name: words, value: count });
        }

        // ------------------------------------------------------------------------------- what is left out, and what helps

        group(group) {
            const words = window.atelier.RULES[group.rule];
            const show = () => this.rights.draft.pictures.showOnly(`rights-${group.rule}`);
            const text = words ? words[0](group.count) : group.why;
            return el("li", { class: "atelier-rights-group", "data-rule": group.rule }, el("span", {}, link(text, show, { title: t("Show only these") }), " · ", t("left out")), ...this.remedies(group));
        }

        isStudio() {
            return this.rights.whose === "studio" || this.rights.said.statement.profile === "studio";
        }

        remedies(group) {
            const { rights } = this;
            const { askOverride, askDocument, askStatement } = window.atelier;
            const studio = this.isStudio();
            const act = (text, does, name) => button(text, does, { kind: "is-small", "data-remedy": name });
            return {
                reservation: [!studio && act(t("Use them all the same …"), () => askOverride(rights, { rule: true }), "override")],
                permits: [act(t("State another licence …"), () => askStatement(rights), "statement")],
                expired: [act(t("Attach a newer document …"), () => askDocument(rights), "document")],
                basis: [act(t("State why …"), () => askStatement(rights), "statement")],
                evidence: [act(t("Attach a document …"), () => askDocument(rights), "document")],
                approval: [act(t("Approve them as they are"), () => this.trying(() => rights.approve()), "approve")],
            }[group.rule] || [];
        }

        async trying(work) {
            try {
                await work();
            } catch (error) {
                replace(this.failed, errorBox(error));
            }
        }

        // The one thing that pictures under an open licence need: which one. Asked here, once for all of them.
        drawLicence() {
            const { said, whose } = this.rights;
            const needed = whose === "open-licence";
            this.licence.hidden = !needed;
            const kept = said.statement.licence || this.rights.licence;
            if (!needed) {
                replace(this.licence);
                this.input = null;
            } else if (!this.input) {
                const place = window.atelier.licenceInput("atelier_licence", kept);
                this.input = place.firstChild;
                this.input.addEventListener("change", () => this.keepLicence());
                this.means = el("p", { class: "atelier-hint", "aria-live": "polite" });
                replace(this.licence, window.atelier.rightsField(t("Licence of all pictures"), place), this.means);
                if (kept) this.explain(kept);
            } else if (document.activeElement !== this.input && this.input.value !== kept) {
                this.input.value = kept;
                this.explain(kept);
            }
        }

        keepLicence() {
            const licence = this.input.value.trim();
            this.rights.licence = licence;
            return this.trying(async () => {
                await this.rights.state({ licence: licence || null });
                await this.explain(this.rights.said.statement.licence || "");
            });
        }

        // What it is taken for, and what that means for the LoRA.
        async explain(licence) {
            const said = licence ? await window.atelier.api("GET", `rights/licence?text=${encodeURIComponent(licence)}`).catch(() => null) : null;
            if (!this.input) return;
            const known = said && said.licence && !said.licence.startsWith("LicenseRef-");
            replace(this.means, known ? t("{name}: {value}.", { name: said.licence, value: permitsSaid(said.permits) }) : licence && t("Not a licence that we know; what it permits is noted as not known."));
        }

        // ------------------------------------------------------------------------------------------- personal data

        drawPersonal() {
            const { said } = this.rights;
            const { files, kinds } = said.personal;
            this.personal.hidden = !files && !said.original;
            if (said.original) {
                replace(this.personal, t("These are copies without personal data; yours are as they were."), " ", link(t("Undo"), () => this.trying(() => this.rights.unstrip()), { id: "atelier_unstrip" }));
            } else if (files) {
                const what = [...new Set(Object.keys(kinds).map((kind) => (FOUND[kind] || (() => kind))()))].join(t(", "));
                const text = files === 1 ? t("1 file tells more than it shows: {what}.", { what }) : t("{count} files tell more than they show: {what}.", { count: files, what });
                replace(this.personal, text, " ", link(t("Train on copies without it"), () => this.trying(() => this.rights.strip()), { id: "atelier_strip" }));
            }
        }

        // ------------------------------------------------------------------------------------------------ folded

        details() {
            const { said } = this.rights;
            const { askStatement, askDocument, showHistory } = window.atelier;
            const studio = this.isStudio();
            const documents = (said.statement.evidence || []).length;
            return [
                ...said.remarks.map((text) => el("p", { class: "atelier-hint", text })),
                said.counts.included > 0 && el("p", { class: "atelier-hint", text: t("By what is stated, all together: {answers}.", { answers: permitsSaid(said.permits) }) }),
                said.personal.captions > 0 && el("p", { class: "atelier-hint", text: t("{count} captions name someone or hold an address; look at them.", { count: said.personal.captions }) }),
                said.counts.override > 0 && el("p", { class: "atelier-hint", text: t("{count} are used against a prohibition; the record has who decided it and why.", { count: said.counts.override }) }),
                documents > 0 && el("p", { class: "atelier-hint", text: documents === 1 ? t("1 document is attached for all pictures.") : t("{count} documents are attached for all pictures.", { count: documents }) }),
                said.approved && el("p", { class: "atelier-hint", text: t("The files are approved: a training stops if one was changed since.") }),
                el("p", { class: "atelier-hint", text: t("What a picture's own dialog says of it goes before what holds for all. Files that say nothing count as saying nothing, not as allowing it.") }),
                el(
                    "p",
                    { class: "atelier-hint atelier-rights-links" },
                    link(t("State more for all pictures …"), () => askStatement(this.rights), { id: "atelier_state" }),
                    " · ",
                    link(t("Attach a document …"), () => askDocument(this.rights)),
                    studio && !said.approved && " · ",
                    studio && !said.approved && link(t("Approve the files as they are"), () => this.trying(() => this.rights.approve()), { id: "atelier_approve" }),
                    said.events > 1 && " · ",
                    said.events > 1 && link(t("History"), () => showHistory(this.rights), { id: "atelier_history" })
                ),
            ];
        }
    }

    window.atelier.RightsSummary = RightsSummary;
})();
