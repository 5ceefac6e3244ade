//! The Spanish texts that the documents of `/api` promise.

use serde_json::Value;

pub(super) const SEND_ERROR_PREFIX: &str = "Error enviando mensaje";

/// The error of an empty request.
pub(in crate::http) const EMPTY_BODY_ERROR: &str = "Se requiere un JSON con los datos del mensaje";

pub(in crate::http) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "un booleano",
        Value::Number(_) => "un número",
        Value::String(_) => "un texto",
        Value::Array(_) => "un array",
        Value::Object(_) => "un objeto",
    }
}

pub(in crate::http) const NO_PHONES: &str =
    "Se requiere el campo 'phones' con un array de números telefónicos";
pub(in crate::http) const NO_RECIPIENTS: &str =
    "Se requiere el campo 'recipients' con un array de destinatarios";
pub(in crate::http) const MISSING_RECIPIENTS: &str = "Falta parámetro: recipients es requerido";
