//! What a key permits, and the permission that each handler requires.
//!
//! The layer in [`auth`](super::auth) verifies the key and attaches its [`Grant`] to the request. Every handler then names
//! what it needs in its signature: [`Access`] with a [`Scope`], or [`Open`]. `tests/architecture/` rejects a handler
//! without either.

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::AppState;
use super::error::ApiError;

/// What a key may permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permission {
    /// Read state, events and metrics.
    Read,
    /// Send messages, act on messages, and run bulk jobs.
    Send,
    /// Change instances, webhooks, lists and queues.
    Manage,
    /// Change keys and the node itself. No route requires it yet.
    Admin,
}

impl Permission {
    const ALL: [Self; 4] = [Self::Read, Self::Send, Self::Manage, Self::Admin];

    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Send => "send",
            Self::Manage => "manage",
            Self::Admin => "admin",
        }
    }
}

/// The permissions of the key that a request presented.
#[derive(Debug, Clone)]
pub(super) struct Grant(Vec<Permission>);

impl Grant {
    /// Every permission: what the one key of the node has, and every caller where authentication is off.
    pub fn all() -> Self {
        Self(Permission::ALL.to_vec())
    }

    fn permits(&self, permission: Permission) -> bool {
        self.0.contains(&permission)
    }
}

/// A permission as a type, for the signature of a handler.
pub(super) trait Scope {
    const PERMISSION: Permission;
}

/// The scopes that handlers name, as `scope::Read`.
pub(super) mod scope {
    use super::{Permission, Scope};

    /// Requires [`Permission::Read`].
    pub(in crate::http) struct Read;

    /// Requires [`Permission::Send`].
    pub(in crate::http) struct Send;

    /// Requires [`Permission::Manage`].
    pub(in crate::http) struct Manage;

    impl Scope for Read {
        const PERMISSION: Permission = Permission::Read;
    }

    impl Scope for Send {
        const PERMISSION: Permission = Permission::Send;
    }

    impl Scope for Manage {
        const PERMISSION: Permission = Permission::Manage;
    }
}

/// A verified key that has the permission of `S`.
///
/// Rejects with 401 a request without a [`Grant`] (its route is not behind the layer that verifies keys), and with 403 a
/// key without the permission. It runs before the body is read.
pub(super) struct Access<S>(PhantomData<S>);

impl<S: Scope> FromRequestParts<AppState> for Access<S> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let grant = parts.extensions.get::<Grant>().ok_or_else(ApiError::unauthorized)?;
        if !grant.permits(S::PERMISSION) {
            let details = format!("this key lacks the scope {}", S::PERMISSION.as_str());
            return Err(ApiError::forbidden(details));
        }
        Ok(Self(PhantomData))
    }
}

/// The route is public: no key is required.
pub(super) struct Open {
    /// Whether the request presents the node's key all the same, and may learn more.
    pub has_key: bool,
}

impl FromRequestParts<AppState> for Open {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Self::Rejection> {
        Ok(Self { has_key: state.keyring.authorizes(&parts.headers) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grant_permits_only_its_permissions() {
        let reader = Grant(vec![Permission::Read]);
        assert!(reader.permits(Permission::Read));
        assert!(!reader.permits(Permission::Send) && !reader.permits(Permission::Manage));
        assert!(Permission::ALL.into_iter().all(|permission| Grant::all().permits(permission)));
    }
}
