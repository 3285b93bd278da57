// The embedded host's own page: LoRA cards, "Try it now", and our labels in the reader's language.
(function () {
    "use strict";

    const { t, api, el, find, replace, whenThere } = window.atelier;

    // ------------------------------------------------------------------------------------------- the prompt

    function promptBox() {
        return find("atelier_prompt") && find("atelier_prompt").querySelector("textarea");
    }

    // Gradio listens to input events of a value that was set as a person's typing sets it.
    function setPrompt(text) {
        const box = promptBox();
        if (!box) return;
        Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, "value").set.call(box, text);
        box.dispatchEvent(new Event("input", { bubbles: true }));
    }

    function insert(lora) {
        const box = promptBox();
        if (!box) return;
        const trigger = lora.trigger && !box.value.includes(lora.trigger) ? `${lora.trigger} ` : "";
        const at = box.selectionStart ?? box.value.length;
        const gap = at > 0 && !/\s$/.test(box.value.slice(0, at)) ? " " : "";
        setPrompt(box.value.slice(0, at) + gap + trigger + lora.tag + box.value.slice(at));
        box.focus();
    }

    // Called by the result of a training: the other page, a prompt that calls the LoRA, and a picture.
    function tryIt(lora) {
        const tabs = [...document.querySelectorAll('button[role="tab"]')];
        const first = tabs.find((tab) => !tab.closest("#atelier_root"));
        if (first) first.click();
        window.setTimeout(() => {
            setPrompt(`${lora.trigger}, ${lora.tag}`);
            window.setTimeout(() => {
                const button = find("atelier_generate");
                if (button) (button.querySelector("button") || button).click();
            }, 300);
        }, 200);
    }

    // ---------------------------------------------------------------------------------------------- cards

    let place = null;

    async function refreshCards() {
        if (!place) return;
        try {
            await window.atelier.ready();
            const { loras } = await api("GET", "loras");
            draw(loras);
        } catch (error) {
            replace(place, window.atelier.errorBox(error));
        }
    }

    function draw(loras) {
        const heading = el(
            "div",
            { class: "atelier-cards-head" },
            el("h3", { text: t("LoRAs") }),
            el("button", { type: "button", class: "atelier-link", onclick: refreshCards, text: t("Refresh") }),
            window.atelier.languages()
        );
        const none = el("p", { class: "atelier-hint", text: t("None yet. Train one in the LoRA Atelier tab, or put .safetensors files into the LoRA folder.") });
        const cards = loras.map((lora) =>
            el(
                "button",
                { type: "button", class: "atelier-lora", title: lora.problem || lora.tag, onclick: () => insert(lora) },
                lora.preview_url ? el("img", { src: "." + lora.preview_url, alt: "", loading: "lazy" }) : el("span", { class: "atelier-lora-blank", "aria-hidden": "true", text: "❖" }),
                el("strong", { text: lora.name }),
                el("small", { text: lora.problem || lora.trigger || "" })
            )
        );
        replace(place, heading, loras.length ? el("div", { class: "atelier-cards" }, ...cards) : none);
    }

    // ----------------------------------------------------------------------------------- Gradio's own labels

    const originals = new WeakMap();

    // Labels of Gradio components are text of its own making; each is looked up by its English.
    function translate(container) {
        const walker = document.createTreeWalker(container, NodeFilter.SHOW_TEXT);
        for (let node = walker.nextNode(); node; node = walker.nextNode()) {
            if (node.parentElement.closest("textarea, code, pre, #atelier_root, #atelier_cards, [data-atelier-said]")) continue;
            const kept = originals.get(node);
            const english = kept && kept.shown === node.nodeValue ? kept.english : node.nodeValue;
            const trimmed = english.trim();
            if (!trimmed) continue;
            const said = t(trimmed);
            const shown = english.replace(trimmed, () => said);
            originals.set(node, { english, shown });
            if (node.nodeValue !== shown) node.nodeValue = shown;
        }
        container.querySelectorAll("textarea[placeholder], input[placeholder]").forEach((box) => {
            if (box.closest("#atelier_root")) return;
            if (!box.dataset.atelierPlaceholder) box.dataset.atelierPlaceholder = box.placeholder;
            box.placeholder = t(box.dataset.atelierPlaceholder);
        });
    }

    whenThere("atelier_cards", async (found) => {
        place = found;
        await window.atelier.ready();
        const page = document.querySelector("gradio-app") || document.body;
        let due = null;
        const later = () => {
            window.clearTimeout(due);
            due = window.setTimeout(() => translate(page), 60);
        };
        new MutationObserver(later).observe(page, { childList: true, subtree: true, characterData: true });
        window.atelier.onLanguage(() => {
            translate(page);
            refreshCards();
        });
        translate(page);
        refreshCards();
    });

    window.atelier.tryIt = tryIt;
    window.atelier.refreshCards = refreshCards;
})();
