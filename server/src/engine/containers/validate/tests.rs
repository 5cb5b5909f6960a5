//! Tests of whole requests, and of the parts that need other containers or files.
