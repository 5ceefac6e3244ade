//! The Spanish texts that the documents of `/api` promise.

use serde_json::Value;

/// The prefix of the error of a message that was not sent.
pub(super) const SEND_ERROR_PREFIX: &str = "Error enviando mensaje";

/// The error of an empty request.
pub(in crate::http) const EMPTY_BODY_ERROR: &str = "Se requiere un JSON con los datos del mensaje";

/// The JSON type of a value, for [`invalid_json`].
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

/// The error of a path that does not exist.
pub(in crate::http) const UNKNOWN_ENDPOINT: &str = "Endpoint no encontrado";

/// The error of an unknown task.
pub(in crate::http) const TASK_NOT_FOUND: &str = "Tarea no encontrada";

pub(in crate::http) const MISSING_MEDIA: &str = "Faltan parámetros: phone, type y media_id son requeridos";
pub(in crate::http) const MISSING_BUTTON: &str = "Se requiere al menos un botón en el campo 'buttons'";
pub(in crate::http) const TOO_MANY_BUTTONS: &str = "Máximo 3 botones permitidos";
pub(in crate::http) const MISSING_SECTIONS: &str = "Se requiere el campo 'sections' como array";
pub(in crate::http) const SECTION_NOT_OBJECT: &str = "Cada section debe ser un objeto";
pub(in crate::http) const SECTION_WITHOUT_TITLE: &str = "Cada section debe tener un 'title'";
pub(in crate::http) const SECTION_WITHOUT_ROWS: &str = "Cada section debe tener un array 'rows'";
pub(in crate::http) const ROW_NOT_OBJECT: &str = "Cada row debe ser un objeto";
pub(in crate::http) const RECIPIENT_NOT_OBJECT: &str = "Cada recipient debe ser un objeto";

/// The cause in `errors` of a recipient that opted out.
pub(in crate::http) const SUPPRESSED: &str = "está en la lista de supresión";

/// The error of a request without one of two required fields.
pub(in crate::http) fn missing_parameters([one, other]: [&str; 2]) -> String {
    format!("Faltan parámetros: {one} y {other} son requeridos")
}

/// The error of a request without a required field.
pub(in crate::http) fn missing_field(name: &str) -> String {
    format!("Se requiere el campo '{name}'")
}

/// The error of a row of a list without a required field.
pub(in crate::http) fn row_without(name: &str) -> String {
    format!("Cada row debe tener un '{name}'")
}

/// The error of a recipient without a required field.
pub(in crate::http) fn recipient_without(name: &str) -> String {
    format!("Cada recipient debe tener un '{name}'")
}

/// The error of a recipient without its phone or its content.
pub(in crate::http) fn recipient_without_phone_or(required: &str) -> String {
    format!("Cada recipient debe tener 'phone' y '{required}'")
}

/// The error of a body that is not a JSON object.
pub(in crate::http) fn invalid_json(cause: &str) -> String {
    format!("JSON inválido: {cause}; envíe un objeto JSON con Content-Type: application/json")
}
