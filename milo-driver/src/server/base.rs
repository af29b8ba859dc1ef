//! `BasePlugin`: who this is, and how it is configured.
//!
//! An agent starts a plugin three times: to look at it, to try its configuration, and to use it. Only the third
//! `SetConfig` says something of the agent itself, and only from then on anything on the machine may change.

use tonic::{Request, Response, Status};

use super::{Plugin, Settings};
use crate::{
    api::{agent_options, error},
    config::Compute,
    proto::base::{
        ClientTopology, ConfigSchemaRequest, ConfigSchemaResponse, PluginInfoRequest,
        PluginInfoResponse, PluginType, SetConfigRequest, SetConfigResponse,
        base_plugin_server::BasePlugin,
    },
    registry::Engine,
    signal,
};

/// The name that jobs use: `driver = "milo"`.
pub const NAME: &str = "milo";

/// The version of the driver protocol; Nomad has no other.
const API_VERSION: &str = "v0.1.0";

#[tonic::async_trait]
impl<E: Engine> BasePlugin for Plugin<E> {
    async fn plugin_info(
        &self,
        _: Request<PluginInfoRequest>,
    ) -> Result<Response<PluginInfoResponse>, Status> {
        Ok(Response::new(PluginInfoResponse {
            r#type: PluginType::Driver.into(),
            plugin_api_versions: vec![API_VERSION.to_owned()],
            plugin_version: env!("CARGO_PKG_VERSION").to_owned(),
            name: NAME.to_owned(),
        }))
    }

    async fn config_schema(
        &self,
        _: Request<ConfigSchemaRequest>,
    ) -> Result<Response<ConfigSchemaResponse>, Status> {
        Ok(Response::new(ConfigSchemaResponse {
            spec: Some(agent_options::schema()),
        }))
    }

    async fn set_config(
        &self,
        request: Request<SetConfigRequest>,
    ) -> Result<Response<SetConfigResponse>, Status> {
        let request = request.into_inner();
        let config = agent_options::decode(&request.msgpack_config).map_err(error::unknown)?;
        signal::parse(&config.stop_signal)
            .map_err(|cause| error::unknown(format!("option `stop_signal`: {cause}")))?;
        let driver = request.nomad_config.and_then(|nomad| nomad.driver);
        let topology = driver.as_ref().and_then(|driver| driver.topology.as_ref());
        self.configure(Settings {
            config,
            compute: topology.map_or_else(Compute::of_this_machine, compute),
        });
        if driver.is_some() {
            self.begin_to_sweep();
        }
        Ok(Response::new(SetConfigResponse {}))
    }
}

/// The CPUs as an agent counts them: what an operator says of them goes before what was found.
fn compute(topology: &ClientTopology) -> Compute {
    let speed = |core: &crate::proto::base::ClientTopologyCore| {
        [core.base_speed, core.max_speed, core.guess_speed]
            .into_iter()
            .find(|speed| *speed > 0)
            .unwrap_or(0)
    };
    let found: u64 = topology
        .cores
        .iter()
        .map(speed)
        .fold(0, u64::saturating_add);
    let own = Compute::of_this_machine();
    Compute {
        megahertz: match topology.override_total_compute {
            0 => found,
            said => said,
        },
        cpus: u32::try_from(topology.cores.len())
            .ok()
            .filter(|cpus| *cpus > 0)
            .unwrap_or(own.cpus),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::base::ClientTopologyCore;

    #[test]
    fn speed_is_the_first_that_is_known_unless_the_operator_says_another() {
        let core = |base_speed, max_speed, guess_speed| ClientTopologyCore {
            base_speed,
            max_speed,
            guess_speed,
            ..Default::default()
        };
        let mut topology = ClientTopology {
            cores: vec![core(2000, 3000, 0), core(0, 3000, 1), core(0, 0, 500)],
            ..Default::default()
        };
        assert_eq!(
            compute(&topology),
            Compute {
                megahertz: 5500,
                cpus: 3
            }
        );
        topology.override_total_compute = 9000;
        assert_eq!(compute(&topology).megahertz, 9000);
        assert_eq!(
            compute(&ClientTopology::default()).cpus,
            Compute::of_this_machine().cpus
        );
    }
}
