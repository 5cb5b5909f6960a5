//! Which containers there are: by id, by name, by the beginning of an id.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use berth_runtime::{Error, Result};

use super::names;

/// Objects by id, and who owns which name. Locked for look-ups in memory only.
#[derive(Debug)]
pub struct Index<T> {
    inner: RwLock<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    by_id: BTreeMap<Arc<str>, Arc<T>>,
    /// Names and the ids they belong to, those of containers still being made included.
    names: HashMap<String, Arc<str>>,
    /// Names of legacy links, `parent/alias`, and the ids of the children.
    links: BTreeMap<String, Arc<str>>,
}

impl<T> Default for Index<T> {
    fn default() -> Self {
        Self {
            inner: RwLock::new(Inner {
                by_id: BTreeMap::new(),
                names: HashMap::new(),
                links: BTreeMap::new(),
            }),
        }
    }
}

impl<T> Index<T> {
    // A panic elsewhere can't leave the maps half-changed: each change is one insertion or removal.
    fn read(&self) -> RwLockReadGuard<'_, Inner<T>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner<T>> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object meant by a full id, a name with or without `/`, or a unique beginning of an id, tried in this order.
    ///
    /// # Errors
    /// Invalid for an empty text and for an ambiguous beginning; not found.
    pub fn find(&self, text: &str) -> Result<Arc<T>> {
        if text.is_empty() {
            return Err(Error::invalid("invalid container name or ID: value is empty"));
        }
        let inner = self.read();
        inner
            .exact(text)
            .map_or_else(|| inner.by_prefix(text), Ok)?
            .ok_or_else(|| no_such(text))
    }

    /// The object meant by a full id or a name; no beginnings of ids.
    pub fn find_exact(&self, text: &str) -> Option<Arc<T>> {
        self.read().exact(text).flatten()
    }

    /// The object of that full id.
    pub fn get(&self, id: &str) -> Option<Arc<T>> {
        self.read().by_id.get(id).cloned()
    }

    /// The full id that `prefix` is the unique beginning of.
    pub fn complete(&self, prefix: &str) -> Option<Arc<str>> {
        let inner = self.read();
        let mut fits = inner.range(prefix);
        match (fits.next(), fits.next()) {
            (Some((id, _)), None) => Some(id.clone()),
            _ => None,
        }
    }

    /// All objects, in order of id.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.read().by_id.values().cloned().collect()
    }

    /// Takes `name` (without slash) for `id`, unless it is taken.
    ///
    /// # Errors
    /// Conflict, naming the owner.
    pub fn reserve(self: &Arc<Self>, name: &str, id: &str) -> Result<Reservation<T>> {
        let mut inner = self.write();
        if let Some(owner) = inner.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to \
                 remove (or rename) that container to be able to reuse that name."
            )));
        }
        inner.names.insert(name.to_owned(), id.into());
        Ok(Reservation {
            index: Arc::clone(self),
            name: name.to_owned(),
            kept: false,
        })
    }

    /// A free name made up for `id`, taken.
    ///
    /// # Errors
    /// Conflict, if even the short id is taken.
    pub fn reserve_any(self: &Arc<Self>, id: &str) -> Result<Reservation<T>> {
        let mut last = Err(Error::conflict("no free container name was found; give one"));
        for name in names::candidates(id) {
            last = self.reserve(&name, id);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Publishes an object under its id.
    pub fn insert(&self, id: &str, object: Arc<T>) {
        self.write().by_id.insert(id.into(), object);
    }

    /// Forgets the object of `id` and its `name`.
    pub fn remove(&self, id: &str, name: &str) {
        let mut inner = self.write();
        inner.by_id.remove(id);
        if inner.names.get(name).is_some_and(|owner| **owner == *id) {
            inner.names.remove(name);
        }
        let children = format!("{name}/");
        inner
            .links
            .retain(|link, child| **child != *id && !link.starts_with(&children));
    }

    /// Gives the object of `id` one more name, `parent/alias`, unless it is taken.
    pub fn link(&self, parent: &str, alias: &str, id: &Arc<str>) -> bool {
        let mut inner = self.write();
        let known = inner
            .links
            .entry(format!("{parent}/{alias}"))
            .or_insert_with(|| Arc::clone(id));
        known == id
    }

    /// Takes that name away.
    pub fn unlink(&self, parent: &str, alias: &str) {
        self.write().links.remove(&format!("{parent}/{alias}"));
    }

    /// Gives the links of `old` the name of their renamed parent.
    pub fn rename_links(&self, old: &str, new: &str) {
        let mut inner = self.write();
        let start = format!("{old}/");
        let moved: Vec<_> = inner
            .links
            .range(start.clone()..)
            .take_while(|(link, _)| link.starts_with(&start))
            .map(|(link, _)| link.clone())
            .collect();
        for link in moved {
            if let (Some(child), Some(alias)) = (inner.links.remove(&link), link.strip_prefix(&start)) {
                inner.links.insert(format!("{new}/{alias}"), child);
            }
        }
    }

    /// Who is linked to the object of `id`, and as what.
    pub fn parents(&self, id: &str) -> Vec<(String, String)> {
        let inner = self.read();
        let own = inner.links.iter().filter(|(_, child)| ***child == *id);
        own.filter_map(|(link, _)| link.split_once('/'))
            .map(|(parent, alias)| (parent.to_owned(), alias.to_owned()))
            .collect()
    }

    /// The further names of all objects that have such, in order, by id.
    pub fn links(&self) -> HashMap<Arc<str>, Vec<String>> {
        let mut links = HashMap::<_, Vec<_>>::new();
        for (link, child) in &self.read().links {
            links.entry(Arc::clone(child)).or_default().push(link.clone());
        }
        links
    }

    /// Frees a name that was taken by [`Reservation::keep`].
    pub fn release(&self, name: &str) {
        self.write().names.remove(name);
    }
}

impl<T> Inner<T> {
    /// None if `text` is neither a full id nor a name; an inner none for the name of an object still being made.
    fn exact(&self, text: &str) -> Option<Option<Arc<T>>> {
        if let Some(object) = self.by_id.get(text) {
            return Some(Some(object.clone()));
        }
        let name = text.strip_prefix('/').unwrap_or(text);
        let id = self.names.get(name).or_else(|| self.links.get(name))?;
        Some(self.by_id.get(id).cloned())
    }

    fn by_prefix(&self, prefix: &str) -> Result<Option<Arc<T>>> {
        let mut fits = self.range(prefix);
        match (fits.next(), fits.next()) {
            (_, Some(_)) => Err(Error::invalid(format!(
                "multiple IDs found with provided prefix: {prefix}"
            ))),
            (fit, None) => Ok(fit.map(|(_, object)| object.clone())),
        }
    }

    fn range<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<T>)> {
        self.by_id
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(id, _)| id.starts_with(prefix))
    }
}

/// The 404 of a container that is not there.
pub fn no_such(text: &str) -> Error {
    Error::not_found(format!("No such container: {text}"))
}

/// A name taken for an object that does not exist yet; freed when dropped, unless kept.
#[derive(Debug)]
#[must_use]
pub struct Reservation<T> {
    index: Arc<Index<T>>,
    name: String,
    kept: bool,
}

impl<T> Reservation<T> {
    /// The name, without slash.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Leaves the name taken.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl<T> Drop for Reservation<T> {
    fn drop(&mut self) {
        if !self.kept {
            self.index.release(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use berth_runtime::Kind;

    use super::*;

    fn index(objects: &[(&str, &str)]) -> Arc<Index<String>> {
        let index = Arc::new(Index::default());
        for (id, name) in objects {
            index.reserve(name, id).unwrap().keep();
            index.insert(id, Arc::new((*id).to_owned()));
        }
        index
    }

    #[test]
    fn ids_go_before_names_and_names_before_prefixes() {
        let index = index(&[("abc1", "one"), ("abd2", "abc"), ("ffff", "abc1")]);
        let find = |text| index.find(text).map(|found| (*found).clone());
        assert_eq!(find("abc1").unwrap(), "abc1");
        assert_eq!(find("abc").unwrap(), "abd2");
        assert_eq!(find("/one").unwrap(), "abc1");
        assert_eq!(find("f").unwrap(), "ffff");
        assert_eq!(find("ab").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(find("").unwrap_err().kind(), Kind::Invalid);
        let missing = find("zzz").unwrap_err();
        assert_eq!(
            (missing.kind(), missing.message()),
            (Kind::NotFound, "No such container: zzz")
        );
    }

    #[test]
    fn a_name_is_given_once() {
        let index = index(&[("abc1", "one")]);
        let taken = index.reserve("one", "abd2").unwrap_err();
        assert_eq!(taken.kind(), Kind::Conflict);
        assert!(
            taken.message().starts_with(
                "Conflict. The container name \"/one\" is already in use by container \"abc1\"."
            )
        );
        let held = index.reserve("two", "abd2").unwrap();
        assert_eq!(index.find("two").unwrap_err().kind(), Kind::NotFound);
        assert!(index.reserve("two", "abd3").is_err());
        drop(held);
        assert!(index.reserve("two", "abd3").is_ok());
        index.remove("abc1", "one");
        assert!(index.find("abc1").is_err());
        assert!(index.reserve("one", "abd4").is_ok());
    }

    #[test]
    fn links_are_further_names() {
        let index = index(&[("abc1", "db"), ("abd2", "web")]);
        let child: Arc<str> = "abc1".into();
        assert!(index.link("web", "data", &child));
        assert!(!index.link("web", "data", &"abd2".into()));
        assert_eq!(*index.find("/web/data").unwrap(), "abc1");
        assert_eq!(index.parents("abc1"), [("web".to_owned(), "data".to_owned())]);
        index.rename_links("web", "site");
        assert_eq!(index.links()["abc1"], ["site/data"]);
        assert!(index.find("web/data").is_err());
        index.remove("abd2", "site");
        assert!(index.links().is_empty());
        assert!(index.link("web", "data", &child));
        index.remove("abc1", "db");
        assert!(index.find("web/data").is_err());
    }

    #[test]
    fn only_unique_beginnings_are_completed() {
        let index = index(&[("abc1", "one"), ("abd2", "two")]);
        assert_eq!(index.complete("abc").as_deref(), Some("abc1"));
        assert_eq!(index.complete("ab"), None);
        assert_eq!(index.complete("x"), None);
    }
}
