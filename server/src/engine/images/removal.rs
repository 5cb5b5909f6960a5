//! Which references and images a removal takes away, and when it is refused.

use berth_runtime::{Error, Result, image::Reference};

/// A container that uses an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The container's full id.
    pub container: String,
    /// Whether it runs or is paused.
    pub running: bool,
}

/// How the request named the image.
#[derive(Clone, Copy, Debug)]
pub(super) enum Named<'a> {
    /// By repository and tag, or repository and digest.
    Reference(&'a Reference),
    /// By id or the beginning of one.
    Id,
}

/// What a removal does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Tags to take away, in this order.
    pub(super) untag: Vec<Reference>,
    /// Whether the image itself goes too.
    pub(super) delete: bool,
}

/// Decides about the removal of the image `id` that has `tags` and is used by `users` (API operation `ImageDelete`).
///
/// # Errors
/// Conflict if the image is used, or if it has tags in several repositories and is named by id; the message says
/// whether force helps.
pub(super) fn plan(
    id: &str,
    tags: &[Reference],
    named: Named<'_>,
    users: &[User],
    force: bool,
) -> Result<Plan> {
    match named {
        Named::Reference(reference) => by_reference(id, tags, reference, users, force),
        Named::Id => by_id(id, tags, users, force),
    }
}

fn by_reference(
    id: &str,
    tags: &[Reference],
    reference: &Reference,
    users: &[User],
    force: bool,
) -> Result<Plan> {
    let untag: Vec<Reference> = if reference.digest().is_some() {
        // A digest names the image in a repository, so it goes with all that repository's tags.
        tags.iter()
            .filter(|tag| tag.same_repository(reference))
            .cloned()
            .collect()
    } else {
        let goes = |tag: &&Reference| *tag == reference;
        let others = |tag: &&Reference| tag.same_repository(reference) && *tag != reference;
        let last_tag = tags.iter().filter(others).all(|other| other.digest().is_some());
        // The last tag of a repository takes its digests along.
        let digests = tags.iter().filter(others).filter(|_| last_tag);
        tags.iter().filter(goes).chain(digests).cloned().collect()
    };
    let last = untag.len() == tags.len();
    if let (true, false, Some(user)) = (last, force, users.first()) {
        return Err(Error::conflict(format!(
            "conflict: unable to remove repository reference {:?} (must force) - container {} is using its referenced \
             image {}",
            reference.familiar(),
            short(&user.container),
            short(id)
        )));
    }
    // With force the tags go; what a container needs stays until the container goes.
    Ok(Plan {
        untag,
        delete: last && users.is_empty(),
    })
}

fn by_id(id: &str, tags: &[Reference], users: &[User], force: bool) -> Result<Plan> {
    let refuse = |how: &str, why: String| {
        Err(Error::conflict(format!(
            "conflict: unable to delete {} ({how}) - {why}",
            short(id)
        )))
    };
    if let Some(user) = users.iter().find(|user| user.running) {
        let why = format!(
            "image is being used by running container {}",
            short(&user.container)
        );
        return refuse("cannot be forced", why);
    }
    let several = tags.windows(2).any(|pair| !pair[0].same_repository(&pair[1]));
    if several && !force {
        return refuse(
            "must be forced",
            "image is referenced in multiple repositories".to_owned(),
        );
    }
    if let (Some(user), false) = (users.first(), force) {
        let why = format!(
            "image is being used by stopped container {}",
            short(&user.container)
        );
        return refuse("must be forced", why);
    }
    // The content stays as long as a container holds it.
    Ok(Plan {
        untag: tags.to_vec(),
        delete: true,
    })
}

/// The twelve digits that people read.
pub(super) fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn tag(text: &str) -> Reference {
        Reference::parse(text).unwrap().normalized()
    }

    fn user(running: bool) -> User {
        User {
            container: "c".repeat(64),
            running,
        }
    }

    #[test]
    fn a_tag_among_others_goes_alone_even_if_the_image_is_used() {
        let tags = [tag("a"), tag("b")];
        let plan = plan(ID, &tags, Named::Reference(&tags[0]), &[user(true)], false).unwrap();
        assert_eq!(plan.untag, [tag("a")]);
        assert!(!plan.delete);
    }

    #[test]
    fn the_last_tag_takes_the_digests_of_its_repository_along() {
        let digest = tag(&format!("a@{ID}"));
        let tags = [tag("a:1"), tag("a:2"), digest.clone(), tag("b:1")];
        let untagged = |tags: &[Reference]| {
            let plan = plan(ID, tags, Named::Reference(&tags[0]), &[], false).unwrap();
            (plan.untag, plan.delete)
        };
        assert_eq!(untagged(&tags), (vec![tag("a:1")], false));
        let one = [tag("a:1"), digest.clone(), tag("b:1")];
        assert_eq!(untagged(&one), (vec![tag("a:1"), digest.clone()], false));
        assert_eq!(untagged(&one[..2]), (one[..2].to_vec(), true));
        assert_eq!(
            untagged(std::slice::from_ref(&digest)),
            (vec![digest.clone()], true)
        );
    }

    #[test]
    fn the_last_tag_of_a_used_image_needs_force_and_leaves_the_content() {
        let tags = [tag("a")];
        let error = plan(ID, &tags, Named::Reference(&tags[0]), &[user(false)], false).unwrap_err();
        assert_eq!(
            error.message(),
            "conflict: unable to remove repository reference \"a:latest\" (must force) - container cccccccccccc is \
             using its referenced image 0123456789ab"
        );
        let forced = plan(ID, &tags, Named::Reference(&tags[0]), &[user(false)], true).unwrap();
        assert_eq!((forced.untag.len(), forced.delete), (1, false));
        let unused = plan(ID, &tags, Named::Reference(&tags[0]), &[], false).unwrap();
        assert!(unused.delete);
    }

    #[test]
    fn an_id_is_refused_for_each_reason() {
        let tags = [tag("a:1"), tag("b:1")];
        for (users, force, fragment) in [
            (
                vec![],
                false,
                "(must be forced) - image is referenced in multiple repositories",
            ),
            (
                vec![user(true)],
                true,
                "(cannot be forced) - image is being used by running container",
            ),
        ] {
            let error = plan(ID, &tags, Named::Id, &users, force).unwrap_err();
            assert!(error.message().contains(fragment), "{error}");
        }
        let one = [tag("a:1"), tag("a:2")];
        let error = plan(ID, &one, Named::Id, &[user(false)], false).unwrap_err();
        assert!(error.message().contains("by stopped container"), "{error}");
        assert_eq!(plan(ID, &one, Named::Id, &[], false).unwrap().untag.len(), 2);
        assert!(plan(ID, &one, Named::Id, &[user(false)], true).unwrap().delete);
    }
}
