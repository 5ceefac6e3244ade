//! Opens the client of an instance, by provider kind.

use std::sync::Arc;

use relevo_cloud_api::CloudApi;
use relevo_domain::{InstanceConfig, InstanceNumber, ProviderKind, ValidationError};
#[cfg(feature = "linked-device")]
use relevo_linked_device::LinkedDevice;
use relevo_provider::{Error, Provider, ProviderResources};

/// Creates the client of instance `number`. The client is not connected yet.
///
/// # Errors
///
/// The configuration is invalid or incomplete, or this binary is built without the provider.
#[cfg_attr(
    not(feature = "linked-device"),
    expect(unused_variables, reason = "only linked devices use the number")
)]
pub fn open(
    number: InstanceNumber,
    config: &InstanceConfig,
    shared: &ProviderResources,
) -> Result<Arc<dyn Provider>, Error> {
    match config.provider {
        ProviderKind::CloudApi => {
            let settings = config.cloud_api.clone();
            let settings =
                settings.ok_or_else(|| ValidationError::new("cloud_api", "is required for this provider"))?;
            Ok(Arc::new(CloudApi::new(settings, shared.clone())?))
        }
        #[cfg(feature = "linked-device")]
        ProviderKind::LinkedDevice => {
            let settings = config.linked_device.clone().unwrap_or_default();
            Ok(Arc::new(LinkedDevice::new(number, &settings, config.sync_history, shared.clone())?))
        }
        #[cfg(not(feature = "linked-device"))]
        ProviderKind::LinkedDevice => Err(Error::NotBuilt(config.provider)),
    }
}
