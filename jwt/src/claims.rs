//! What a verified token says.

use std::fmt;
use std::sync::Arc;

use serde_json::Map;
pub use serde_json::Value;

/// The claims of a verified token, and who vouches for them.
pub struct Claims {
    pub(super) provider: Arc<str>,
    pub(super) members: Map<String, Value>,
}

impl Claims {
    /// The name of the provider that vouches for them.
    #[must_use]
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// A claim by its path: each name leads one object deeper. No name is split or joined: which dots separate and
    /// which are part of a name is said by the configuration.
    #[must_use]
    pub fn get(&self, path: &[Arc<str>]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let first = self.members.get(&**first)?;
        rest.iter().try_fold(first, |value, name| value.as_object()?.get(&**name))
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
    fn a_path_leads_into_objects_and_names_keep_their_dots() {
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
        assert_eq!(claims.get(&["https://corp.example/roles".into()]), Some(&json!(["b"])));
        assert_eq!(claims.get(&["realm_access.roles".into()]), Some(&json!(["shadowed"])));
        for missing in ["https://corp.example/roles", "none", "sub.x", "text.x.y", "realm_access.x", ""] {
            assert_eq!(claims.get(&path(missing)), None, "{missing}");
        }
        assert_eq!(claims.get(&[]), None);
        assert!(!format!("{claims:?}").contains("ann"));
    }
}
