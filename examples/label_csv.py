"""Label a CSV: label_csv.py reviews.csv new.csv labelled.csv [KEY=VALUE of the recipe ...]."""

import sys

import prooftune

labelled, unlabelled, out = sys.argv[1:4]  # labelled: text, label; unlabelled: text
recipe = prooftune.init(labelled, "recipe.yaml", force=True).recipe
result = prooftune.run(recipe, out="runs/labels", overrides=sys.argv[4:])
print(result.headline, result.verdict)
print(prooftune.predict(result.bundle, unlabelled, out))
