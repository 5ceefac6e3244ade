//! Opens the client of an instance with its provider.

use std::sync::Arc;

use relevo_cloud_api::CloudApi;
use relevo_domain::{InstanceConfig, InstanceNumber, ProviderConfig};
#[cfg(feature = "linked-device")]
use relevo_linked_device::LinkedDevice;
use relevo_provider::{Error, Provider, ProviderResources};

/// Creates the client of instance `number`. The client is not connected yet.
///
/// # Errors
///
/// A setting is invalid, or this binary is built without the provider.
#[cfg_attr(
    not(feature = "linked-device"),
    expect(unused_variables, reason = "only linked devices use the number")
)]
pub fn open(
    number: InstanceNumber,
    config: &InstanceConfig,
    shared: &ProviderResources,
) -> Result<Arc<dyn Provider>, Error> {
    match &config.provider {
        ProviderConfig::CloudApi(settings) => Ok(Arc::new(CloudApi::new(settings.clone(), shared.clone())?)),
        #[cfg(feature = "linked-device")]
        ProviderConfig::LinkedDevice(settings) => {
            Ok(Arc::new(LinkedDevice::new(number, settings, shared.clone())?))
        }
        #[cfg(not(feature = "linked-device"))]
        ProviderConfig::LinkedDevice(_) => Err(Error::NotBuilt(config.provider.kind())),
    }
}
