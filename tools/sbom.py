"""Writes the bill of materials, in CycloneDX's JSON: python tools/sbom.py file

Every distribution of the environment it runs in, by its metadata: required is what ls_loss needs at run time, excluded are the
tools of its development. Must not know a name but that of the product.
"""

import json
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import quote

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PRODUCT = "ls-loss"
INSTALLED = {canonicalize_name(one.metadata["Name"]): one for one in metadata.distributions()}


def needs(name):
    """What a distribution requires here, as far as it is installed."""
    requirements = map(Requirement, INSTALLED[name].requires or [])
    wanted = {
        canonicalize_name(one.name) for one in requirements if not one.marker or one.marker.evaluate({"extra": ""})
    }
    return sorted(wanted & INSTALLED.keys())


def with_all_needs(name, found=()):
    for need in needs(name):
        if need not in found:
            found = with_all_needs(need, (*found, need))
    return found


def licences(facts):
    """As the distribution states it: an SPDX expression, else classifiers, else the first line of a text."""
    if expression := facts["License-Expression"]:
        return [{"expression": expression}]
    classifiers = [one for one in facts.get_all("Classifier", []) if one.startswith("License ::")]
    names = [one.rpartition(" :: ")[2] for one in classifiers] or (facts["License"] or "").strip().splitlines()[:1]
    return [{"license": {"name": name}} for name in names]


def component(name, scope):
    facts = INSTALLED[name].metadata
    return {
        "type": "library",
        "bom-ref": name,
        "name": facts["Name"],
        "version": facts["Version"],
        "description": facts["Summary"] or "",
        "scope": scope,
        "licenses": licences(facts),
        "purl": f"pkg:pypi/{name}@{quote(facts['Version'])}",
    }


def bill():
    required = with_all_needs(PRODUCT)
    others = sorted(INSTALLED.keys() - {PRODUCT})
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": component(PRODUCT, "required")},
        "components": [component(name, "required" if name in required else "excluded") for name in others],
        "dependencies": [{"ref": name, "dependsOn": needs(name)} for name in sorted(INSTALLED)],
    }


if __name__ == "__main__":
    (file,) = sys.argv[1:]
    Path(file).write_text(json.dumps(bill(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(file)
