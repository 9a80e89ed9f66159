"""Licences of models, in words: what a person must know before using one."""

import gradio as gr

from resnet_hub.demo.i18n import translate

_TERMS = {  # licence -> what a person needs to know of it
    **dict.fromkeys(("mit", "apache-2.0", "bsd-2-clause", "bsd-3-clause", "isc", "bsd"), "terms_free"),
    **dict.fromkeys(("cc0-1.0", "unlicense", "pddl"), "terms_public"),
    **dict.fromkeys(("cc-by-4.0", "cc-by-3.0", "cc-by-2.0"), "terms_credit"),
    **dict.fromkeys(("cc-by-sa-4.0", "cc-by-sa-3.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0"), "terms_alike"),
    "other": "terms_own",
    **dict.fromkeys(("cc-by-nc-4.0", "cc-by-nc-3.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"), "terms_noncommercial"),
}


def name_license(license: str | None, request: gr.Request) -> str | None:
    """The identifier of a licence, with what a person must know before they use the model."""
    key = _TERMS.get((license or "").lower())
    if key == "terms_own":
        return translate(request, "own_terms")
    return translate(request, "noncommercial", license=license) if key == "terms_noncommercial" else license


def describe_terms(license: str | None, request: gr.Request) -> str:
    """What the licence of a base allows with a model that is trained from it, in a sentence."""
    key = _TERMS.get((license or "").lower(), "terms_other" if license else "terms_unknown")
    return translate(request, key, license=license)
