//! The key that callers present: configured, or made here once and kept in the data folder.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRng as _;
use rand::rngs::SysRng;

use relevo_domain::{ErrorKind, Secret};
use relevo_store::{self as store, DataFolder};

/// The file of the data folder that holds a generated key.
const KEY_FILE: &str = "api_key";

/// 256 bits: nobody guesses it, and no lock-out is needed.
const KEY_BYTES: usize = 32;

/// Who may call the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// The configured key. Without one, [`resolve_api_key`] makes one.
    pub api_key: Option<Secret>,
    /// `false`: everyone who reaches the port may call.
    pub required: bool,
    /// Permits `required = false` on an address that others can reach.
    pub allow_open: bool,
}

/// The key in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedKey {
    /// `None` only when authentication was switched off explicitly.
    pub key: Option<Secret>,
    /// The key is new and nobody has seen it yet: print it, once, and not into the logs.
    pub generated_now: bool,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("{path} holds no usable key; write one into it, or delete it to have a new one generated")]
    Unusable { path: String },
    #[error("the system gave no random numbers for an API key: {0}")]
    Random(String),
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Store(error) => error.kind(),
            Error::Unusable { .. } | Error::Random(_) => ErrorKind::Internal,
        }
    }
}

/// The configured key; else the one in the data folder; else a new one, written there before it is given back.
pub fn resolve_api_key(auth: &Auth, folder: &DataFolder) -> Result<ResolvedKey, Error> {
    let known = |key: Option<Secret>| Ok(ResolvedKey { key, generated_now: false });
    if !auth.required {
        return known(None);
    }
    if let Some(key) = &auth.api_key {
        return known(Some(key.clone()));
    }
    if let Some(text) = folder.read(KEY_FILE)? {
        let key = text.trim();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Unusable { path: folder.path().join(KEY_FILE).display().to_string() });
        }
        return known(Some(Secret::new(key)));
    }
    let key = generate()?;
    folder.write(KEY_FILE, &format!("{}\n", key.expose()))?;
    Ok(ResolvedKey { key: Some(key), generated_now: true })
}

/// 43 URL-safe characters.
fn generate() -> Result<Secret, Error> {
    let mut bytes = [0; KEY_BYTES];
    SysRng.try_fill_bytes(&mut bytes).map_err(|cause| Error::Random(cause.to_string()))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    const KEYLESS: Auth = Auth { api_key: None, required: true, allow_open: false };

    #[test]
    fn a_key_is_generated_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let first = resolve_api_key(&KEYLESS, &folder).unwrap();
        assert!(first.generated_now);
        let key = first.key.unwrap();
        assert_eq!(key.expose().len(), 43);
        assert!(key.expose().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        let mode = fs::metadata(dir.path().join("api_key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let second = resolve_api_key(&KEYLESS, &folder).unwrap();
        assert_eq!(second, ResolvedKey { key: Some(key), generated_now: false });
    }

    #[test]
    fn two_folders_have_two_keys() {
        assert_ne!(generate().unwrap(), generate().unwrap());
    }

    #[test]
    fn a_configured_key_wins_and_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let auth = Auth { api_key: Some(Secret::new("mine")), ..KEYLESS };
        assert_eq!(resolve_api_key(&auth, &folder).unwrap().key, Some(Secret::new("mine")));
        assert!(!dir.path().join("api_key").exists());
    }

    #[test]
    fn no_key_only_when_none_is_required() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        let open = Auth { required: false, ..KEYLESS };
        assert_eq!(resolve_api_key(&open, &folder).unwrap(), ResolvedKey { key: None, generated_now: false });
    }

    #[test]
    fn empty_key_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(dir.path()).unwrap();
        for text in ["", "  \n", "two words"] {
            fs::write(dir.path().join("api_key"), text).unwrap();
            let error = resolve_api_key(&KEYLESS, &folder).unwrap_err();
            assert!(matches!(error, Error::Unusable { .. }), "{error}");
        }
    }
}
