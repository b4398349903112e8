# `qazyna restore` with the arguments given; then the restored server goes on for as long as this container runs.
qazyna restore "$@" && exec sleep infinity
