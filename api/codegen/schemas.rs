//! From schemas to the types that are to be written.

use std::collections::{BTreeMap, BTreeSet};

use utoipa::openapi::{
    RefOr, Schema,
    extensions::Extensions,
    schema::{AdditionalProperties, ArrayItems, Object, SchemaType, Type},
};

use crate::codegen::{
    document::{Document, flag, ref_name, word},
    names,
    shapes::{
        description, enumeration, extensions, integer, is_anything, is_null, is_struct, nullable, sole_type,
        unknown_words,
    },
};

/// A Rust type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ty {
    Bool,
    /// An integer, by the name of its Rust type.
    Int(&'static str),
    Float,
    Text,
    /// Any JSON value.
    Any,
    /// An object of anything.
    FreeMap,
    /// An object without members.
    Empty,
    List(Box<Ty>),
    Map(Box<Ty>),
    /// A generated type.
    Named(String),
    /// A generated type behind a pointer, because it contains itself.
    Boxed(String),
    Option(Box<Ty>),
}

/// A bound of versions: `x-since`, `x-until`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    pub since: Option<(u16, u16)>,
    pub until: Option<(u16, u16)>,
}

impl Span {
    /// Reads the bound from the extensions of an item.
    pub fn of(extensions: &Option<Extensions>) -> Result<Self, String> {
        let bound = |name: &str| {
            let Some(text) = word(extensions, name) else {
                return match extensions.as_ref().and_then(|extensions| extensions.get(name)) {
                    Some(value) => Err(format!("{name} must be a quoted version, not {value}")),
                    None => Ok(None),
                };
            };
            let version = text
                .split_once('.')
                .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
            version
                .map(Some)
                .ok_or_else(|| format!("{name}: {text:?} is not a version"))
        };
        Ok(Self {
            since: bound("x-since")?,
            until: bound("x-until")?,
        })
    }

    /// Whether there is a bound at all.
    pub fn is_bounded(&self) -> bool {
        *self != Self::default()
    }
}

/// A field of a struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub doc: String,
    pub ty: Ty,
    /// Written even if zero.
    pub always: bool,
    pub span: Span,
}

/// A generated type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Definition {
    Struct {
        doc: String,
        fields: Vec<Field>,
    },
    Enum {
        doc: String,
        values: Vec<String>,
        default: usize,
        /// What is said about any other value, with `{}` in its place; none: what is said of all.
        unknown: Option<String>,
    },
    Alias {
        doc: String,
        ty: Ty,
    },
}

/// All generated types by name.
#[derive(Debug, Default)]
pub struct Schemas {
    pub types: BTreeMap<String, Definition>,
}

impl Schemas {
    /// Reads all schemas of the document's components.
    pub fn read(document: &Document) -> Result<Self, String> {
        let mut schemas = Self::default();
        let components = document
            .api
            .components
            .iter()
            .flat_map(|components| &components.schemas);
        for (name, schema) in components {
            let at = |error: String| format!("components.schemas.{name}: {error}");
            let RefOr::T(schema) = schema else {
                return Err(at("a schema that is only a reference".into()));
            };
            let mut reader = Reader {
                document,
                schemas: &mut schemas,
            };
            reader.define(&names::type_name(name), schema).map_err(at)?;
        }
        schemas.box_cycles();
        Ok(schemas)
    }

    /// The type of a schema that stands in an operation; what it needs is defined under `owner`.
    pub fn in_place(
        &self,
        document: &Document,
        owner: &str,
        schema: &RefOr<Schema>,
    ) -> Result<(Ty, Self), String> {
        let mut own = Self::default();
        let ty = Reader {
            document,
            schemas: &mut own,
        }
        .ty(owner, schema)?;
        Ok((ty, own))
    }

    /// Puts structs that contain themselves behind pointers.
    fn box_cycles(&mut self) {
        let cyclic: BTreeSet<(String, String)> = self
            .types
            .iter()
            .flat_map(|(owner, definition)| {
                direct(definition)
                    .into_iter()
                    .map(move |target| (owner.clone(), target))
            })
            .filter(|(owner, target)| self.reaches(target, owner, &mut BTreeSet::new()))
            .collect();
        for (owner, target) in cyclic {
            if let Some(Definition::Struct { fields, .. }) = self.types.get_mut(&owner) {
                fields
                    .iter_mut()
                    .for_each(|field| box_named(&mut field.ty, &target));
            }
        }
    }

    fn reaches<'a>(&'a self, from: &'a str, to: &str, seen: &mut BTreeSet<&'a str>) -> bool {
        from == to
            || self.types.get_key_value(from).is_some_and(|(name, definition)| {
                seen.insert(name)
                    && direct(definition).iter().any(|next| {
                        self.types
                            .get_key_value(next.as_str())
                            .is_some_and(|(next, _)| self.reaches(next, to, seen))
                    })
            })
    }
}

/// The types a value of this definition holds in place.
fn direct(definition: &Definition) -> Vec<String> {
    fn named(ty: &Ty) -> Option<String> {
        match ty {
            Ty::Named(name) => Some(name.clone()),
            Ty::Option(inner) => named(inner),
            _ => None,
        }
    }
    match definition {
        Definition::Struct { fields, .. } => fields.iter().filter_map(|field| named(&field.ty)).collect(),
        Definition::Alias { ty, .. } => named(ty).into_iter().collect(),
        Definition::Enum { .. } => Vec::new(),
    }
}

fn box_named(ty: &mut Ty, target: &str) {
    match ty {
        Ty::Named(name) if name == target => *ty = Ty::Boxed(name.clone()),
        Ty::Option(inner) => box_named(inner, target),
        _ => {}
    }
}

struct Reader<'a, 's> {
    document: &'a Document,
    schemas: &'s mut Schemas,
}

/// A property before its type is known.
struct Property<'a> {
    /// The schema that declares it, after which a type in it is named.
    owner: String,
    name: &'a str,
    schema: &'a RefOr<Schema>,
    required: bool,
}

/// The properties of a schema, `allOf` flattened; a later part replaces what an earlier one declared.
fn collect<'a>(
    document: &'a Document,
    owner: &str,
    schema: &'a Schema,
    into: &mut Vec<Property<'a>>,
) -> Result<(), String> {
    match schema {
        Schema::Object(object) => {
            for (name, schema) in &object.properties {
                let property = Property {
                    owner: owner.to_owned(),
                    name,
                    schema,
                    required: false,
                };
                match into.iter_mut().find(|known| known.name == name) {
                    Some(known) => *known = property,
                    None => into.push(property),
                }
            }
            // A part may require what another part declares.
            for name in &object.required {
                match into.iter_mut().find(|property| property.name == name) {
                    Some(property) => property.required = true,
                    None => return Err(format!("{name} is required but no property")),
                }
            }
            Ok(())
        }
        Schema::AllOf(all) => all.items.iter().try_for_each(|part| match part {
            RefOr::T(part) => collect(document, owner, part, into),
            RefOr::Ref(reference) => {
                let owner = names::type_name(ref_name(&reference.ref_location)?);
                collect(document, &owner, document.schema(&reference.ref_location)?, into)
            }
        }),
        _ => Err("a part of allOf is no object".into()),
    }
}

impl Reader<'_, '_> {
    /// Adds a type; the same one may come again through `allOf`.
    fn add(&mut self, name: &str, definition: Definition) -> Result<(), String> {
        match self.schemas.types.get(name) {
            Some(known) if *known != definition => Err(format!(
                "there are two types {name}; give one schema another name"
            )),
            _ => {
                self.schemas.types.insert(name.to_owned(), definition);
                Ok(())
            }
        }
    }

    /// Defines the type `name` for a schema.
    fn define(&mut self, name: &str, schema: &Schema) -> Result<(), String> {
        let doc = description(schema);
        if is_struct(schema) {
            let mut properties = Vec::new();
            collect(self.document, name, schema, &mut properties)?;
            let fields = properties
                .iter()
                .map(|property| {
                    self.field(property)
                        .map_err(|error| format!("{}: {error}", property.name))
                })
                .collect::<Result<_, _>>()?;
            return self.add(name, Definition::Struct { doc, fields });
        }
        let definition = match enumeration(schema)? {
            Some((values, default)) if !nullable(schema) => Definition::Enum {
                doc,
                values,
                default,
                unknown: unknown_words(schema),
            },
            // Who refers to the alias says that it can be null.
            _ => match self.schema(name, schema)? {
                Ty::Option(inner) => Definition::Alias { doc, ty: *inner },
                ty => Definition::Alias { doc, ty },
            },
        };
        self.add(name, definition)
    }

    fn field(&mut self, property: &Property<'_>) -> Result<Field, String> {
        let inner = format!("{}{}", property.owner, names::type_name(property.name));
        let mut ty = self.ty(&inner, property.schema)?;
        let (extensions, doc) = match property.schema {
            RefOr::T(schema) => (extensions(schema), description(schema)),
            RefOr::Ref(reference) => (&None, reference.description.clone()),
        };
        let always = property.required || flag(extensions, "x-always");
        // Left out must be told apart from every value that can be written.
        if !always && !matches!(ty, Ty::Option(_)) && self.has_no_zero(property.schema)? {
            ty = Ty::Option(Box::new(ty));
        }
        Ok(Field {
            name: property.name.to_owned(),
            doc,
            ty,
            always,
            span: Span::of(extensions)?,
        })
    }

    /// Whether a schema has no value that means the same as leaving it out: structs (in Go, only pointers to them are
    /// left out) and enums none of whose values is the empty text.
    fn has_no_zero(&self, schema: &RefOr<Schema>) -> Result<bool, String> {
        let schema = match schema {
            RefOr::Ref(reference) => self.document.schema(&reference.ref_location)?,
            RefOr::T(schema) => schema,
        };
        match schema {
            Schema::OneOf(one) if one.items.len() == 1 => self.has_no_zero(&one.items[0]),
            schema => {
                let values = enumeration(schema)?;
                let lacks_empty = values.is_some_and(|(values, _)| !values.iter().any(String::is_empty));
                Ok(is_struct(schema) || lacks_empty)
            }
        }
    }

    /// The type of a schema; `name` is for what has to be defined for it.
    fn ty(&mut self, name: &str, schema: &RefOr<Schema>) -> Result<Ty, String> {
        match schema {
            RefOr::T(schema) => self.schema(name, schema),
            RefOr::Ref(reference) => {
                let target = self.document.schema(&reference.ref_location)?;
                let named = Ty::Named(names::type_name(ref_name(&reference.ref_location)?));
                Ok(optional(named, nullable(target)))
            }
        }
    }

    fn schema(&mut self, name: &str, schema: &Schema) -> Result<Ty, String> {
        if is_struct(schema) || enumeration(schema)?.is_some() {
            return self.lifted(name, schema);
        }
        match schema {
            Schema::Object(object) => {
                let ty = match sole_type(&object.schema_type)? {
                    None => Ty::Any,
                    Some(Type::Boolean) => Ty::Bool,
                    Some(Type::Integer) => Ty::Int(integer(object)?),
                    Some(Type::Number) => Ty::Float,
                    Some(Type::String) => Ty::Text,
                    Some(Type::Object) => self.map(name, object)?,
                    Some(Type::Array | Type::Null) => return Err("a list needs items".into()),
                };
                Ok(optional(ty, nullable(schema)))
            }
            Schema::Array(array) => {
                let ArrayItems::RefOrSchema(items) = &array.items else {
                    return Err("a list without items".into());
                };
                let items = self.ty(&format!("{name}Item"), items)?;
                Ok(optional(Ty::List(Box::new(items)), nullable(schema)))
            }
            Schema::OneOf(one) => {
                let mut others = one.items.iter().filter(|item| !is_null(item));
                match (others.next(), others.next()) {
                    (Some(only), None) => {
                        let ty = self.ty(name, only)?;
                        let null = one.items.len() > 1 && !matches!(ty, Ty::Option(_));
                        Ok(optional(ty, null))
                    }
                    _ => Err("oneOf may only say that something can be null".into()),
                }
            }
            _ => Err("allOf of objects and oneOf with null are all that is understood".into()),
        }
    }

    /// A struct or enum that stands inside another schema gets a type of its own.
    fn lifted(&mut self, name: &str, schema: &Schema) -> Result<Ty, String> {
        let mut bare = schema.clone();
        let null = nullable(schema);
        if let Schema::Object(object) = &mut bare {
            object.schema_type = match is_struct(schema) {
                true => SchemaType::new(Type::Object),
                false => SchemaType::new(Type::String),
            };
        }
        self.define(name, &bare)?;
        Ok(optional(Ty::Named(name.to_owned()), null))
    }

    fn map(&mut self, name: &str, object: &Object) -> Result<Ty, String> {
        Ok(match object.additional_properties.as_deref() {
            _ if object.max_properties == Some(0) => Ty::Empty,
            Some(AdditionalProperties::RefOr(RefOr::T(value))) if is_anything(value) => Ty::FreeMap,
            Some(AdditionalProperties::RefOr(value)) => {
                Ty::Map(Box::new(self.ty(&format!("{name}Value"), value)?))
            }
            Some(AdditionalProperties::FreeForm(true)) | None => Ty::FreeMap,
            Some(AdditionalProperties::FreeForm(false)) => Ty::Empty,
        })
    }
}

fn optional(ty: Ty, null: bool) -> Ty {
    match null {
        true => Ty::Option(Box::new(ty)),
        false => ty,
    }
}
