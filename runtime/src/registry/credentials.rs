//! Who asks a registry, as clients of the engine's API say it.

use std::fmt;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;

use crate::{Error, Result};

/// Credentials for a registry; the default is nobody in particular. They are never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password, or an access token used as one.
    pub password: String,
    /// `username:password` in base64, from old clients.
    pub auth: String,
    /// The registry that they are for.
    pub serveraddress: String,
    /// A refresh token from a login, instead of the password.
    pub identitytoken: String,
    /// A token that the registry takes as it is.
    pub registrytoken: String,
}

impl Credentials {
    /// Reads the header `X-Registry-Auth`: base64, of either alphabet, with or without padding, of a JSON object. An
    /// empty one is nobody.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if it is anything else.
    pub fn parse(header: &str) -> Result<Self> {
        if header.trim().is_empty() {
            return Ok(Self::default());
        }
        let bytes = decode(header)?;
        let invalid = || Error::invalid("invalid X-Registry-Auth header: it is no JSON object");
        // By way of a map, since an array of texts would pass for the fields in their order.
        let given: Option<serde_json::Map<String, serde_json::Value>> =
            serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        let given = serde_json::Value::Object(given.unwrap_or_default());
        serde_json::from_value::<Self>(given)
            .map_err(|_| invalid())?
            .completed()
    }

    /// The same with user name and password taken from `auth` if they are missing.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] if `auth` is malformed.
    pub fn completed(mut self) -> Result<Self> {
        if self.username.is_empty() && !self.auth.is_empty() {
            let text = String::from_utf8(decode(&self.auth)?).unwrap_or_default();
            let (user, password) = text
                .split_once(':')
                .ok_or_else(|| Error::invalid("invalid auth: it is not the base64 of user:password"))?;
            self.username = user.to_owned();
            self.password = password.trim_end_matches('\0').to_owned();
        }
        Ok(self)
    }

    /// Whether they are nobody's.
    pub fn is_anonymous(&self) -> bool {
        self.username.is_empty() && self.identitytoken.is_empty() && self.registrytoken.is_empty()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Decodes base64 of either alphabet.
fn decode(text: &str) -> Result<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let standard = text.trim().replace('-', "+").replace('_', "/");
    GeneralPurpose::new(&alphabet::STANDARD, LENIENT)
        .decode(standard)
        .map_err(|_| Error::invalid("invalid X-Registry-Auth header: it is not base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_alphabets_with_and_without_padding() {
        let json = r#"{"username":"u?>","password":"p~~~","serveraddress":"x"}"#;
        for engine in [
            base64::engine::general_purpose::STANDARD,
            base64::engine::general_purpose::STANDARD_NO_PAD,
            base64::engine::general_purpose::URL_SAFE,
            base64::engine::general_purpose::URL_SAFE_NO_PAD,
        ] {
            let credentials = Credentials::parse(&engine.encode(json)).unwrap();
            assert_eq!((&*credentials.username, &*credentials.password), ("u?>", "p~~~"));
        }
    }

    #[test]
    fn nobody_and_nonsense() {
        for header in ["", "e30=", "e30", "bnVsbA=="] {
            assert!(Credentials::parse(header).unwrap().is_anonymous(), "{header}");
        }
        for header in ["!", "eA==", "W10="] {
            assert_eq!(
                Credentials::parse(header).unwrap_err().kind(),
                crate::Kind::Invalid
            );
        }
    }

    #[test]
    fn old_clients_and_secrecy() {
        let credentials = Credentials {
            auth: "dTpwOnE=".to_owned(),
            ..Credentials::default()
        };
        let credentials = credentials.completed().unwrap();
        assert_eq!((&*credentials.username, &*credentials.password), ("u", "p:q"));
        assert!(!format!("{credentials:?}").contains("p:q"));
    }
}
