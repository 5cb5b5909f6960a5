#!/usr/bin/env python3
"""Which answers of the document no test has seen.

    BERTH_SEEN=/tmp/seen cargo test -p berth-tests --test blackbox
    tests/unseen.py openapi.yaml /tmp/seen [TAG...]

Prints operation and status, for the tags named or for all. Needs PyYAML."""

import sys

import yaml


def main():
    document = yaml.safe_load(open(sys.argv[1]))
    seen = {tuple(line.split()) for line in open(sys.argv[2])}
    tags = set(sys.argv[3:])
    unseen = []
    for item in document["paths"].values():
        for operation in item.values():
            if not isinstance(operation, dict) or "operationId" not in operation:
                continue
            if tags and not tags & set(operation.get("tags", [])):
                continue
            for status in operation["responses"]:
                pair = (operation["operationId"], str(status))
                if pair not in seen:
                    unseen.append(pair)
    for pair in sorted(unseen):
        print(*pair)
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
