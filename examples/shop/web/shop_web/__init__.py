"""The shop's page: what is for sale, a form to order it, and everybody's orders as they happen."""
