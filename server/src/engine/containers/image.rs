//! What containers need of images: a configuration to begin with, and files that stay while the container does.

use berth_api::{ApiVersion, models, read};
use berth_runtime::{
    Error, Result,
    error::Context,
    image::{Digest, Hold, Image, Platform},
};

use super::{Containers, validate::Checked};

impl Containers {
    /// The id of the image that a text means.
    pub(super) fn image_id(&self, text: &str) -> Option<String> {
        self.images.resolve(text).ok().map(|image| image.id.to_string())
    }

    /// The ids of the image that a text means and of those that are built upon it.
    pub(super) fn image_family(&self, text: &str) -> Vec<String> {
        let Ok(ancestor) = self.images.resolve(text) else {
            return Vec::new();
        };
        let mut family = vec![ancestor.id.to_string()];
        family.extend(
            self.images
                .list()
                .iter()
                .filter(|image| is_built_upon(image, &ancestor))
                .map(|image| image.id.to_string()),
        );
        family
    }

    /// The directory that takes what a container changes.
    pub fn upper_directory(&self, container: &super::model::Container) -> std::path::PathBuf {
        self.store.writable_layer(container.id()).upper
    }

    /// Keeps the image of a container; none for a container without one.
    ///
    /// # Errors
    /// Not found if it is gone.
    pub(super) fn hold_image(&self, id: &str) -> Result<Option<Hold>> {
        match id {
            "" => Ok(None),
            id => self.images.hold(&id.parse()?).map(Some),
        }
    }

    /// Finds the image of a request, keeps it, and adds what it says. An empty name is no image.
    ///
    /// # Errors
    /// Not found if there is none of that name, or none for `platform`; invalid if the name is malformed or the image's
    /// configuration is wrong.
    pub(super) fn resolve_image(&self, checked: &mut Checked, platform: &str) -> Result<Option<Hold>> {
        let name = checked.config.image.clone();
        if name.is_empty() {
            checked.merge_image(&models::ImageConfig::default())?;
            return Ok(None);
        }
        // A full id may also mean an image that nobody sees but a build that holds it.
        let hidden = name
            .parse::<Digest>()
            .ok()
            .and_then(|id| self.images.hold(&id).ok());
        let hold = match hidden {
            Some(hold) => hold,
            None => self.images.hold(&self.images.resolve(&name)?.id)?,
        };
        let image = hold.image();
        checked
            .warnings
            .extend(check_platform(&name, &image.platform(), platform)?);
        checked.merge_image(&model_of(image)?)?;
        Ok(Some(hold))
    }
}

/// The part of an image's configuration that containers inherit.
fn model_of(image: &Image) -> Result<models::ImageConfig> {
    let message = || format!("cannot read the configuration of image {}", image.id);
    let value = serde_json::to_value(&image.config.config).context(message)?;
    read::read_value(value, ApiVersion::NEWEST).context(message)
}

/// Compares an image's platform with the one asked for, or with the host's; the latter only gives a warning.
fn check_platform(name: &str, actual: &Platform, asked: &str) -> Result<Option<String>> {
    if asked.is_empty() {
        let host = Platform::host();
        let foreign = !actual.os.is_empty() && host.preference(actual).is_none();
        return Ok(foreign.then(|| {
            format!(
                "The requested image's platform ({}) does not match the detected host platform ({}) and no specific \
                 platform was requested",
                text_of(actual),
                text_of(&host)
            )
        }));
    }
    let mut parts = asked.split('/');
    let os = parts.next().unwrap_or_default();
    let architecture = parts.next();
    let variant = parts.next();
    let fits = os.eq_ignore_ascii_case(&actual.os)
        && architecture.is_none_or(|architecture| known_as(architecture) == actual.architecture)
        && variant.is_none_or(|variant| actual.variant.as_deref().is_none_or(|actual| actual == variant));
    if parts.next().is_some() || os.is_empty() {
        return Err(Error::invalid(format!(
            "{asked:?} is no platform: os[/architecture[/variant]] is needed"
        )));
    }
    match fits {
        true => Ok(None),
        false => Err(Error::not_found(format!(
            "image with reference {name} was found but does not match the specified platform: wanted {asked}, actual: {}",
            text_of(actual)
        ))),
    }
}

/// An architecture by the name that images use for it.
fn known_as(architecture: &str) -> &str {
    match architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" => "386",
        "armhf" | "armel" => "arm",
        other => other,
    }
}

fn text_of(platform: &Platform) -> String {
    let mut text = format!("{}/{}", platform.os, platform.architecture);
    if let Some(variant) = &platform.variant {
        text.push('/');
        text.push_str(variant);
    }
    text
}

/// Whether an image begins as `ancestor` does, in its layers and in what it says of how they came, and goes on.
fn is_built_upon(image: &Image, ancestor: &Image) -> bool {
    let layers = |image: &Image| image.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>();
    let (own, base) = (layers(image), layers(ancestor));
    let (steps, first) = (&image.config.history, &ancestor.config.history);
    !base.is_empty()
        && own.starts_with(&base)
        && steps.starts_with(first)
        && (own.len(), steps.len()) != (base.len(), first.len())
}

#[cfg(test)]
mod tests {
    use berth_runtime::Kind;

    use super::*;

    #[test]
    fn a_foreign_platform_is_refused_when_asked_for_another() {
        let image = Platform {
            architecture: "arm64".into(),
            os: "linux".into(),
            variant: Some("v8".into()),
            os_version: None,
        };
        for asked in [
            "linux",
            "linux/arm64",
            "linux/aarch64",
            "linux/arm64/v8",
            "Linux/arm64",
        ] {
            assert_eq!(check_platform("x", &image, asked).unwrap(), None, "{asked}");
        }
        for asked in ["windows", "linux/amd64", "linux/arm64/v9"] {
            let error = check_platform("x", &image, asked).unwrap_err();
            assert_eq!(error.kind(), Kind::NotFound, "{asked}");
            assert!(
                error
                    .message()
                    .contains("was found but does not match the specified platform")
            );
        }
        assert_eq!(
            check_platform("x", &image, "a/b/c/d").unwrap_err().kind(),
            Kind::Invalid
        );
    }

    #[test]
    fn without_a_wish_a_foreign_platform_is_a_warning() {
        assert_eq!(check_platform("x", &Platform::host(), "").unwrap(), None);
        let foreign = Platform {
            architecture: "s390x".into(),
            ..Platform::host()
        };
        assert!(
            check_platform("x", &foreign, "")
                .unwrap()
                .unwrap()
                .contains("does not match the detected host")
        );
    }
}
