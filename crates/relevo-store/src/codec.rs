use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;

/// A record as bytes: MessagePack with field names, so that a later binary may add fields (with a default) and
/// still read what an earlier one wrote.
pub fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, Error> {
    rmp_serde::to_vec_named(record).map_err(|cause| Error::Codec(cause.to_string()))
}

/// The record that [`encode`] wrote.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    rmp_serde::from_slice(bytes).map_err(|cause| Error::Codec(cause.to_string()))
}
