//! Docker's default values of a container's specification, as data and as parts of an OCI specification.
