//! The parts of the OpenAPI document that extractors describe: path parameters, headers and query parameters.

use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::{ObjectBuilder, Required, Type};

/// A parameter of the path. It is always required.
pub(super) fn path(name: &str, description: &str) -> Parameter {
    text(name, ParameterIn::Path, Required::True, description)
}

/// A header that may be left out.
pub(super) fn header(name: &str, description: &str) -> Parameter {
    text(name, ParameterIn::Header, Required::False, description)
}

/// A query parameter that may be left out.
pub(super) fn query(name: &str, description: &str) -> Parameter {
    text(name, ParameterIn::Query, Required::False, description)
}

fn text(name: &str, place: ParameterIn, required: Required, description: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(description))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build()
}
