//! go-plugin's controller: the wish that this process end. The reply goes out first; whoever waits for the wish lets it.

use tonic::{Request, Response, Status};

use super::Ending;
use crate::proto::plugin::{Empty, grpc_controller_server::GrpcController};

/// The controller.
#[derive(Clone, Debug)]
pub struct Controller {
    ending: Ending,
}

impl Controller {
    /// One that passes the wish on.
    pub fn new(ending: Ending) -> Self {
        Self { ending }
    }
}

#[tonic::async_trait]
impl GrpcController for Controller {
    async fn shutdown(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.ending.wish();
        Ok(Response::new(Empty {}))
    }
}
