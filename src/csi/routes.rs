//! The services that a process serves, at one endpoint.

use tonic::service::Routes;

use super::controller::ControllerService;
use super::identity::IdentityService;
use super::node::NodeService;
use super::proto::controller_server::ControllerServer;
use super::proto::identity_server::IdentityServer;
use super::proto::node_server::NodeServer;
use crate::controller::Controller;
use crate::controller::ask::attach::Attacher;
use crate::health::Health;
use crate::node::Node;

/// Identity always, the others when there is something behind them. A call to a
/// service that is not there gets UNIMPLEMENTED.
pub fn routes(
    driver_name: &str,
    controller: Option<Controller>,
    attacher: Option<Attacher>,
    node: Option<Node>,
    health: Health,
) -> Routes {
    let identity = IdentityService::new(driver_name.to_owned(), health);
    let mut routes = Routes::new(IdentityServer::new(identity));
    if let Some(controller) = controller {
        routes = routes.add_service(ControllerServer::new(ControllerService::new(controller, attacher)));
    }
    if let Some(node) = node {
        routes = routes.add_service(NodeServer::new(NodeService::new(node)));
    }
    routes
}
