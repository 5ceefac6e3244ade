//! Encoding of records: MessagePack with field names, so that a later binary can add fields with defaults and still
//! read the records of earlier ones.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;

/// Encodes a record.
///
/// # Errors
/// [`Error::Codec`] when the record's `Serialize` implementation fails.
pub fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, Error> {
    rmp_serde::to_vec_named(record).map_err(|cause| Error::Codec(cause.to_string()))
}

/// Decodes a record that [`encode`] wrote.
///
/// # Errors
/// [`Error::Codec`] when the bytes are no such record.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    rmp_serde::from_slice(bytes).map_err(|cause| Error::Codec(cause.to_string()))
}
