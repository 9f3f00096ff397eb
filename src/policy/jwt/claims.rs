//! What a verified token says.

use std::fmt;
use std::sync::Arc;

use serde_json::Map;
pub use serde_json::Value;

use crate::policy::authz::ClaimSource;

/// The claims of a verified token, and who vouches for them.
pub struct Claims {
    pub(super) provider: Arc<str>,
    pub(super) members: Map<String, Value>,
}

impl Claims {
    /// A claim by its path: each name leads one object deeper. Where that leads nowhere, the names joined by dots are
    /// tried as the name of one claim of the token itself, because names like `https://corp.example/roles` have dots.
    #[must_use]
    pub fn get(&self, path: &[Arc<str>]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let mut nested = self.members.get(&**first);
        for name in rest {
            nested = nested.and_then(|value| value.as_object()?.get(&**name));
        }
        nested.or_else(|| self.dotted(path))
    }

    fn dotted(&self, path: &[Arc<str>]) -> Option<&Value> {
        (path.len() > 1).then(|| self.members.get(&path.join("."))).flatten()
    }
}

impl ClaimSource for Claims {
    fn provider(&self) -> &str {
        &self.provider
    }

    fn get(&self, path: &[Arc<str>]) -> Option<&Value> {
        Self::get(self, path)
    }
}

/// Claims are about people: only how many there are is shown.
impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims")
            .field("provider", &self.provider)
            .field("count", &self.members.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn path(text: &str) -> Vec<Arc<str>> {
        text.split('.').map(Arc::from).collect()
    }

    #[test]
    fn dots_lead_into_objects_and_else_name_one_claim() {
        let Value::Object(members) = json!({
            "sub": "ann",
            "realm_access": { "roles": ["a"] },
            "realm_access.roles": ["shadowed"],
            "https://corp.example/roles": ["b"],
            "text": "x",
        }) else {
            unreachable!("an object is written above")
        };
        let claims = Claims { provider: "corp".into(), members };
        assert_eq!(claims.get(&path("sub")), Some(&json!("ann")));
        assert_eq!(claims.get(&path("realm_access.roles")), Some(&json!(["a"])));
        assert_eq!(claims.get(&path("https://corp.example/roles")), Some(&json!(["b"])));
        for missing in ["none", "sub.x", "text.x.y", "realm_access.x", ""] {
            assert_eq!(claims.get(&path(missing)), None, "{missing}");
        }
        assert_eq!(claims.get(&[]), None);
        assert!(!format!("{claims:?}").contains("ann"));
    }
}
