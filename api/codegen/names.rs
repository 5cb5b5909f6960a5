//! Names in Rust for names in the contract.

use heck::{ToShoutySnakeCase, ToSnakeCase, ToUpperCamelCase};
use proc_macro2::{Ident, Span};

/// Plurals and mixed-case terms that word splitting would tear apart.
const TERMS: [(&str, &str); 12] = [
    ("IPv4", "Ipv4"),
    ("IPv6", "Ipv6"),
    ("IOps", "Iops"),
    ("CPUs", "Cpus"),
    ("CAs", "Cas"),
    ("CIDRs", "Cidrs"),
    ("IDs", "Ids"),
    ("IPs", "Ips"),
    ("SELinux", "Selinux"),
    ("URLs", "Urls"),
    ("UIDGID", "UidGid"),
    ("OSType", "OsType"),
];

fn words(name: &str) -> String {
    TERMS
        .iter()
        .fold(name.to_owned(), |name, (term, plain)| name.replace(term, plain))
}

/// The name of a field, argument or method.
pub fn field(name: &str) -> Ident {
    let snake = words(name).to_snake_case();
    let snake = match snake.chars().next() {
        Some(first) if first.is_ascii_alphabetic() => snake,
        _ => format!("n{snake}"),
    };
    match snake.as_str() {
        "self" | "super" | "crate" => Ident::new(&format!("{snake}_"), Span::call_site()),
        _ => syn::parse_str(&snake).unwrap_or_else(|_| Ident::new_raw(&snake, Span::call_site())),
    }
}

/// The name of a type. Names that are fine already stay as they are.
pub fn type_name(name: &str) -> String {
    let fine = name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric());
    match fine {
        true => name.to_owned(),
        false => words(name).to_upper_camel_case(),
    }
}

/// The name of an enum's variant for a value.
pub fn variant(value: &str) -> Ident {
    let camel = value.to_upper_camel_case();
    let camel = match camel.chars().next() {
        None => "Empty".to_owned(),
        Some(first) if first.is_ascii_digit() => format!("V{camel}"),
        Some(_) if camel == "Self" => "Self_".to_owned(),
        Some(_) => camel,
    };
    ident(&camel)
}

/// The name of a constant.
pub fn constant(name: &str) -> Ident {
    ident(&words(name).to_shouty_snake_case())
}

/// An identifier that is known to be one.
pub fn ident(name: &str) -> Ident {
    Ident::new(name, Span::call_site())
}
