Component "upload.example.org" "http_upload_external"
    http_upload_external_base_url = "https://upload.example.org/upload/"
    http_upload_external_secret = "the same secret"
    http_upload_external_protocol = "v2"
    http_upload_external_file_size_limit = 1024*1024*1024
