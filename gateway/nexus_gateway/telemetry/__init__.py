"""Names, formats and records of what the gateway tells about itself. Pure: nothing here measures or sends."""
