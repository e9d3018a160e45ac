"""Label a CSV: tune on reviews.csv (columns text, label), label new.csv (column text)."""

import sys

import prooftune

labelled, unlabelled, out = sys.argv[1:4]  # reviews.csv new.csv labelled.csv
recipe = prooftune.init(labelled, "recipe.yaml", force=True).recipe
result = prooftune.run(recipe, out="runs/labels", overrides=sys.argv[4:])
print(result.verdict)
print(prooftune.predict(result.bundle, unlabelled, out))
